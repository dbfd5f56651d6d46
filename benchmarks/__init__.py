"""Ours beside its peers, in the same run, on the same broker: ``python -m benchmarks [rpc] [jobs] [transfer]``.

Nothing here ships; it may import what the peers need.
"""
