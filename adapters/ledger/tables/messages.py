"""What waits to be said: messages until the broker has confirmed them, and what a job's source is to be told."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    literal_column,
    text,
)

from adapters.ledger.tables.base import index_where, metadata

#: Messages that the ledger's changes cause, until the broker has confirmed them. UUIDv7 ids keep their order.
outbox = Table(
    "outbox",
    metadata,
    Column("message_id", Text, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("claimed_ms", BigInteger, nullable=False),
    #: Since when it is here, by the lease clock.
    Column("put_ms", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("message_id", name="pk_outbox"),
    sqlite_with_rowid=False,
)

#: What the source of a job is to be told. ``due_ms`` is the lease clock's; a ``state`` of ``held`` is for a person.
deliveries = Table(
    "deliveries",
    metadata,
    Column("job", BigInteger, nullable=False),
    Column("what", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("error", Text, nullable=False),
    #: How far it is, in the words of who delivers, and what the steps until there have given.
    Column("step", Text, nullable=False, server_default=text("''")),
    Column("kept", LargeBinary, nullable=True),
    #: How often it was taken or put anew.
    Column("claim", BigInteger, nullable=False, server_default=text("0")),
    #: The adapter that is at it; empty = none.
    Column("taken_by", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("job", "what", name="pk_deliveries"),
    ForeignKeyConstraint(["job"], ["jobs.number"], name="fk_deliveries_job"),
    sqlite_with_rowid=False,
)

IS_DUE = deliveries.c.state == literal_column("'due'")
index_where("ix_deliveries_due", IS_DUE, deliveries.c.source, deliveries.c.due_ms, deliveries.c.job)
