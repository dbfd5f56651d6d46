"""Messages that wait for the broker to confirm them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, PrimaryKeyConstraint, Table, Text, text

from adapters.ledger.tables.base import metadata

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
