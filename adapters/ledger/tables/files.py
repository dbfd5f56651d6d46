"""The files of the store as far as the ledger knows them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, Table, Text

from adapters.ledger.tables.base import metadata

#: Which submissions need which files of the store.
inputs = Table(
    "inputs",
    metadata,
    Column("sha256", Text, nullable=False),
    Column("submission", BigInteger, nullable=False),
    PrimaryKeyConstraint("sha256", "submission", name="pk_inputs"),
    Index("ix_inputs_submission", "submission"),
    sqlite_with_rowid=False,
)

#: Deleted jobs whose stored outputs, up to this attempt, have yet to be removed.
removals = Table(
    "removals",
    metadata,
    Column("ref", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    PrimaryKeyConstraint("ref", name="pk_removals"),
    sqlite_with_rowid=False,
)

#: One row: a store knows by it that it is this ledger's.
identity = Table(
    "identity", metadata, Column("id", Text, nullable=False), PrimaryKeyConstraint("id", name="pk_identity")
)
