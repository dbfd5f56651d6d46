"""Ours beside its peers, in the same run: ``python -m benchmarks [rpc] [jobs] [transfer] [exec] [vm]``;
and the ledger alone, whose operations must not grow with it: ``python -m benchmarks ledger``.

Nothing here ships; it may import what the peers need.
"""
