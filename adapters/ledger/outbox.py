"""The outbox: messages that the ledger's changes cause, in the same transaction, until the broker has confirmed them.

Publishing is the adapter's: ``fresh`` right after the commit, then ``tick``; whatever stays is ``stale`` and published
again under its own id, so receivers see a message at least once and can tell a repetition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, delete, func, insert, select, update

from adapters.ledger import tables
from adapters.ledger.transaction import OutboxRow, Tx, portions
from broker.routes import Route
from schemas.codec import encode
from schemas.envelope import Message

_table = tables.outbox
_INSERT = insert(_table)
_DELETE = delete(_table).where(_table.c.message_id.in_(bindparam("ids", expanding=True)))
_OLDEST = (
    select(_table.c.message_id)
    .where(_table.c.claimed_ms <= bindparam("before_ms"))
    .order_by(_table.c.message_id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_CLAIM = (
    update(_table)
    .where(_table.c.message_id.in_(bindparam("ids", expanding=True)))
    .values(claimed_ms=bindparam("now_ms"))
    .returning(_table.c.message_id, _table.c.exchange, _table.c.routing_key, _table.c.body)
)


def put(tx: Tx, route: Route, message: Message) -> None:
    """Put one message out with this transaction. Raises DecodeError when it is longer than the wire allows."""
    put_all(tx, [(route, message)])


def put_all(tx: Tx, messages: Iterable[tuple[Route, Message]]) -> None:
    """Put messages out with this transaction, all or none of them."""
    rows = [OutboxRow(message.id, route.exchange, route.key, encode(message)) for route, message in messages]
    claimed = tx.now_ms if rows else 0
    tx.each(
        _INSERT,
        [
            {
                "message_id": row.message_id,
                "exchange": row.exchange,
                "routing_key": row.routing_key,
                "body": row.body,
                "claimed_ms": claimed,
            }
            for row in rows
        ],
    )
    tx.outgoing.extend(rows)


def fresh(tx: Tx) -> list[OutboxRow]:
    """List what this transaction put out, to be published once ``write`` has returned."""
    return list(tx.outgoing)


def stale(tx: Tx, older_than_ms: int, limit: int = 500) -> list[OutboxRow]:
    """Claim messages that nobody has ticked off for ``older_than_ms``, oldest first.

    They count as just published from now on, so that another adapter does not claim them as well.
    """
    oldest = tx.execute(_OLDEST, {"before_ms": tx.now_ms - older_than_ms, "most": limit})
    ids = list(oldest.scalars())
    if not ids:
        return []
    claimed = tx.execute(_CLAIM, {"ids": ids, "now_ms": tx.now_ms})
    return sorted((OutboxRow(*row) for row in claimed), key=lambda row: row.message_id)


def tick(tx: Tx, message_ids: Sequence[str]) -> None:
    """Forget messages that the broker has confirmed; unknown ids are no error."""
    for some in portions(message_ids):
        tx.execute(_DELETE, {"ids": some})


def depth(tx: Tx) -> int:
    """Count the messages that are not confirmed."""
    return int(tx.execute(select(func.count()).select_from(_table)).scalar_one())
