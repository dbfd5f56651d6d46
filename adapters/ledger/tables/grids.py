"""What is known of grids: sources, and the jobs that they have given which are none of ours yet."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text, text

from adapters.ledger.tables.base import metadata

#: Jobs that a grid has given, until they are submitted here or their flaw has been told there. ``due_ms`` is the lease
#: clock's. ``work`` is NULL where it could not be read.
acquisitions = Table(
    "acquisitions",
    metadata,
    Column("source", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("work", LargeBinary, nullable=True),
    #: Why it cannot be done: its source is to be told so.
    Column("flaw", Text, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("error", Text, nullable=False),
    #: The adapter that is at it; empty = none.
    Column("taken_by", Text, nullable=False, server_default=text("''")),
    #: How often an adapter that had it has ended since anything was said of it.
    Column("lost", Integer, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("source", "id", "attempt", name="pk_acquisitions"),
    Index("ix_acquisitions_due", "source", "due_ms"),
    sqlite_with_rowid=False,
)

#: Calls in which jobs are taken at a grid, until what they gave is written down; times are the lease clock's.
takings = Table(
    "takings",
    metadata,
    Column("source", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("began_ms", BigInteger, nullable=False),
    #: Since when nothing that it gave is written down any more; and when it is seen to next.
    Column("void_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("source", "id", name="pk_takings"),
    sqlite_with_rowid=False,
)

#: The sources that have had an adapter, each as it was last heard of. Times are for people.
sources = Table(
    "sources",
    metadata,
    Column("source", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    #: When it was asked for jobs last, when it gave some last, and when it will be asked again.
    Column("asked_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("given_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("next_ms", BigInteger, nullable=False, server_default=text("0")),
    #: Free slots for which it is being asked, and until when that counts, by the lease clock.
    Column("claimed", Integer, nullable=False, server_default=text("0")),
    Column("claimed_until_ms", BigInteger, nullable=False, server_default=text("0")),
    #: What is wrong with it, and since when; empty = nothing.
    Column("trouble", Text, nullable=False, server_default=text("''")),
    Column("trouble_ms", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("source", name="pk_sources"),
    sqlite_with_rowid=False,
)
