"""What happened to VMs and hosts, in the order of its numbers."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, Table, Text

from adapters.ledger.tables.base import Number, metadata

#: Rows of ``schemas.events.Event``; ``lease_ms`` is by the lease clock, and does not fall as numbers rise.
happenings = Table(
    "happenings",
    metadata,
    Column("number", Number, nullable=False, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Column("event", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("vm", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("was", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("by", Text, nullable=False),
    PrimaryKeyConstraint("number", name="pk_happenings"),
    Index("ix_happenings_vm", "vm", "number"),
    Index("ix_happenings_name", "name", "number"),
    Index("ix_happenings_host", "host", "number"),
    Index("ix_happenings_at", "at_ms", "number"),
)

#: One row: the number of the newest, the highest of those that were removed, and how many are kept. Whoever adds or
#: removes some holds it to the end of his transaction, so numbers become visible in their order.
happening_numbers = Table(
    "happening_numbers",
    metadata,
    Column("number", Integer, nullable=False, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("removed", BigInteger, nullable=False),
    Column("kept", BigInteger, nullable=False),
    PrimaryKeyConstraint("number", name="pk_happening_numbers"),
)

#: How much a host has told since when, by the lease clock, and what of it was left out.
happening_budgets = Table(
    "happening_budgets",
    metadata,
    Column("host", Text, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("told", Integer, nullable=False),
    Column("left_out", BigInteger, nullable=False),
    PrimaryKeyConstraint("host", name="pk_happening_budgets"),
    sqlite_with_rowid=False,
)
