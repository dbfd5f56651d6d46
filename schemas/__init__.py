"""The words on the wire: every message as a frozen typed value, one codec, and the documents generated from them.

This floor imports no client library; whatever speaks to the broker stands above it.
"""
