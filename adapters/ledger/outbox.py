"""The outbox: messages that the ledger's changes cause, in the same transaction, until the broker has confirmed them.

What a transaction puts out becomes rows at its end, a row a publish: messages to one VM share rows, as bundles.
Publishing is the adapter's: ``fresh`` right after the commit, then ``tick``; whatever stays is ``stale`` and published
again under its own id, so receivers see a message at least once and can tell a repetition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from adapters.ledger import tables
from adapters.ledger.transaction import OutboxRow, Tx, portions
from broker.outbound import body_of
from broker.routes import Route, takes_bundles
from schemas.codec import BUNDLE_BYTES, MOST_IN_BUNDLE, bundle
from schemas.envelope import Message
from schemas.ids import uuid7

_table = tables.outbox
_INSERT = insert(_table)
_DELETE = delete(_table).where(_table.c.message_id.in_(bindparam("ids", expanding=True)))
#: One whose claim lies in the future was claimed by a clock that has been set back since.
_OLDEST = (
    select(_table.c.message_id)
    .where(or_(_table.c.claimed_ms <= bindparam("before_ms"), _table.c.claimed_ms > bindparam("after_ms")))
    .order_by(_table.c.claimed_ms, _table.c.message_id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_CLAIM = (
    update(_table)
    .where(_table.c.message_id.in_(bindparam("ids", expanding=True)))
    .values(claimed_ms=bindparam("now_ms"))
    .returning(_table.c.message_id, _table.c.exchange, _table.c.routing_key, _table.c.body)
)


_PROBE: dict[str, Any] = {
    **{"message_id": "probe", "exchange": "", "routing_key": "", "body": b""},
    **{"claimed_ms": 0, "put_ms": 0},
}


def put(tx: Tx, route: Route, message: Message) -> None:
    """Put one message out with this transaction. Raises DecodeError when it is longer than the wire allows."""
    put_all(tx, [(route, message)])


def put_all(tx: Tx, messages: Iterable[tuple[Route, Message]]) -> None:
    """Put messages out with this transaction, all or none of them. Raises DecodeError as ``put``."""
    tx.gathered += [(route, message.id, body_of(message)) for route, message in messages]


def write(tx: Tx) -> None:
    """Make rows of what was put out, in its order for each route; the ledger ends every transaction with it."""
    by_route: defaultdict[Route, list[tuple[str, bytes]]] = defaultdict(list)
    for route, message_id, body in tx.gathered:
        by_route[route].append((message_id, body))
    tx.gathered.clear()
    rows = [row for route, bodies in by_route.items() for row in _rows(route, bodies)]
    if rows:
        times = {"claimed_ms": tx.now_ms, "put_ms": tx.lease_now_ms}
        tx.each(_INSERT, [msgspec.structs.asdict(row) | times for row in rows])
    tx.outgoing += rows


def _rows(route: Route, messages: Sequence[tuple[str, bytes]]) -> Iterator[OutboxRow]:
    for some in _bundles(messages) if takes_bundles(route) else ([one] for one in messages):
        message_id = some[0][0] if len(some) == 1 else uuid7()
        yield OutboxRow(message_id, route.exchange, route.key, bundle([body for _, body in some]))


def _bundles(messages: Sequence[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    some: list[tuple[str, bytes]] = []
    size = 0
    for message_id, body in messages:
        if some and (len(some) == MOST_IN_BUNDLE or size + len(body) > BUNDLE_BYTES):
            yield some
            some, size = [], 0
        some.append((message_id, body))
        size += len(body)
    yield some


def fresh(tx: Tx) -> list[OutboxRow]:
    """List what this transaction put out, to be published once ``write`` has returned; the list is filled by then."""
    return tx.outgoing


def stale(tx: Tx, older_than_ms: int, limit: int = 500) -> list[OutboxRow]:
    """Claim messages that nobody has ticked off for ``older_than_ms``, those first that were published longest ago.

    They count as just published from now on, so that another adapter does not claim them as well.
    """
    times = {"before_ms": tx.now_ms - older_than_ms, "after_ms": tx.now_ms + older_than_ms}
    oldest = tx.execute(_OLDEST, {**times, "most": limit})
    ids = list(oldest.scalars())
    if not ids:
        return []
    claimed = tx.execute(_CLAIM, {"ids": ids, "now_ms": tx.now_ms})
    return sorted((OutboxRow(*row) for row in claimed), key=lambda row: row.message_id)


def tick(tx: Tx, message_ids: Sequence[str]) -> None:
    """Forget messages that the broker has confirmed; unknown ids are no error."""
    for some in portions(message_ids):
        tx.execute(_DELETE, {"ids": some})


def probe(tx: Tx) -> None:
    """Write something and take it back, which a database without room does not let us do."""
    tx.execute(_INSERT, _PROBE)
    tick(tx, [_PROBE["message_id"]])


def depth(tx: Tx) -> int:
    """Count the messages that are not confirmed."""
    return int(tx.execute(select(func.count()).select_from(_table)).scalar_one())
