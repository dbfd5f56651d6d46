"""Events of VMs and hosts, read by number, so that every adapter answers alike: see ``happenings``.

A name or id without a wildcard is found by an index; a pattern walks the numbers, so many rows a page, and a page may
then be short or empty though others follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Row, Select, bindparam, select

from adapters.ledger import claims, tables
from adapters.ledger.registry import is_pattern
from adapters.ledger.transaction import Tx
from schemas.events import Event, EventList, Events

#: Rows looked at for one page of a pattern that few fit, and read at a time.
MOST_WALKED, READ_AT_ONCE = 5000, 500

_rows, _numbers = tables.happenings, tables.happening_numbers
_NAMES = (_rows.c.name, _rows.c.vm, _rows.c.host)
_STATE = select(_numbers.c.last, _numbers.c.removed)
_FIRST_SINCE = (
    select(_rows.c.number)
    .where(_rows.c.at_ms >= bindparam("since_ms"))
    .order_by(_rows.c.at_ms, _rows.c.number)
    .limit(1)
)


def _read(*conditions: Any, newest: bool = False) -> Select[Any]:
    order = _rows.c.number.desc() if newest else _rows.c.number
    return select(_rows).where(*conditions).order_by(order).limit(bindparam("most"))


_AFTER = _rows.c.number > bindparam("after")
_BELOW = _rows.c.number < bindparam("below")
_UP, _DOWN = _read(_AFTER), _read(_AFTER, _BELOW, newest=True)
_UP_NAMED = [_read(column == bindparam("named"), _AFTER) for column in _NAMES]
_DOWN_NAMED = [_read(column == bindparam("named"), _AFTER, newest=True) for column in _NAMES]
#: By ids alone: a name is any host's choice.
_DOWN_BY_ID = [_read(column == bindparam("named"), newest=True) for column in (_rows.c.vm, _rows.c.host)]


def events(tx: Tx, message: EventList) -> Events:
    """Give a page of events: those after a number, or the newest."""
    # Before the rows: what is numbered up to here is there for the next statement to see.
    last, _ = tx.execute(_STATE).one()
    after = _begin(tx, message, last)
    if message.newest:
        found: Sequence[Row[Any]] = _newest(tx, message, after)
        following = last
    elif is_pattern(message.pattern):
        found, following = _walk(tx, message, after, last)
    else:
        found, following = _named(tx, message, after, last)
    # After them: what was removed while they were read is told.
    _, removed = tx.execute(_STATE).one()
    told = [_event(row) for row in found if row.at_ms >= message.since_ms]
    return Events(call=message.id, events=told, next=following, last=last, removed=removed, ledger=claims.identity(tx))


def latest(tx: Tx, ident: str, most: int) -> list[Event]:
    """Give the last events of one VM or host, with its VMs, by its id."""
    found = {row.number: row for one in _DOWN_BY_ID for row in tx.execute(one, {"named": ident, "most": most})}
    return [_event(found[number]) for number in sorted(found)][-most:]


def _begin(tx: Tx, message: EventList, last: int) -> int:
    if not message.since_ms:
        return message.after
    first = tx.execute(_FIRST_SINCE, {"since_ms": message.since_ms}).scalar()
    return max(message.after, last if first is None else first - 1)


def _named(tx: Tx, message: EventList, after: int, last: int) -> tuple[Sequence[Row[Any]], int]:
    values = {"named": message.pattern, "after": after, "most": message.limit}
    found = {row.number: row for statement in _UP_NAMED for row in tx.execute(statement, values)}
    page = [found[number] for number in sorted(found)][: message.limit]
    return page, page[-1].number if len(page) == message.limit else max(last, after)


def _walk(tx: Tx, message: EventList, after: int, last: int) -> tuple[Sequence[Row[Any]], int]:
    fitting: list[Row[Any]] = []
    looked = after
    at_once = _at_once(message.pattern, message.limit)
    for _ in range(max(1, MOST_WALKED // at_once)):
        page = tx.execute(_UP, {"after": looked, "most": at_once}).all()
        for row in page:
            if len(fitting) == message.limit:
                return fitting, fitting[-1].number
            looked = row.number
            if _fits(row, message.pattern):
                fitting.append(row)
        if len(page) < at_once:
            return fitting, max(looked, last, after)
    return fitting, looked


def _newest(tx: Tx, message: EventList, after: int) -> list[Row[Any]]:
    if not is_pattern(message.pattern):
        values = {"named": message.pattern, "after": after, "most": message.newest}
        found = {row.number: row for statement in _DOWN_NAMED for row in tx.execute(statement, values)}
        return [found[number] for number in sorted(found)][-message.newest :]
    fitting: list[Row[Any]] = []
    below = (1 << 63) - 1
    at_once = _at_once(message.pattern, message.newest)
    for _ in range(max(1, MOST_WALKED // at_once)):
        page = tx.execute(_DOWN, {"after": after, "below": below, "most": at_once}).all()
        fitting += [row for row in page if _fits(row, message.pattern)]
        if len(page) < at_once or len(fitting) >= message.newest:
            break
        below = page[-1].number
    return fitting[: message.newest][::-1]


def _at_once(pattern: str, wanted: int) -> int:
    """Say how many rows to read: no more than are wanted where all fit."""
    return wanted if pattern == "*" else READ_AT_ONCE


def _fits(row: Row[Any], pattern: str) -> bool:
    return any(fnmatchcase(word, pattern) for word in (row.name, row.vm, row.host) if word)


def _event(row: Row[Any]) -> Event:
    return Event(**{name: getattr(row, name) for name in Event.__struct_fields__})
