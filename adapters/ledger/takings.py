"""Takings: calls in which an adapter takes jobs at a grid, noted before the grid is asked.

A taking is over once what it gave is written down, in the same transaction. One that is not over in time is void for
good: what it gave is not written down any more, whoever comes with it, so its jobs can be given back at the grid. That
is seen to by one adapter of the source at a time, until all that the taking had sent must have arrived there.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Select, bindparam, delete, insert, select, update

from adapters.ledger import tables
from adapters.ledger.transaction import Insert, Tx, insert_into, portions

_table = tables.takings

#: After how long a taking is void, ms: the grid has 30 s to answer, and the ledger a minute to take that in.
LAPSED_MS = 120_000
#: For how long it is looked at the grid what a void one has taken: what it had sent may arrive late, ms.
LATE_MS = 120_000
#: For how long whoever looks has that to itself; and how often it is looked, ms.
CLAIM_MS = 60_000
#: Void takings that are looked at together.
PORTION = 100

_IS_SOURCES = _table.c.source == bindparam("of_source")
_IS_OPEN = _table.c.void_ms == 0
_IS_LAPSED = _IS_SOURCES & _IS_OPEN & (_table.c.began_ms <= bindparam("lapsed_ms", type_=BigInteger))
_IS_DUE = _IS_SOURCES & ~_IS_OPEN & (_table.c.due_ms <= bindparam("now_ms", type_=BigInteger))
_IS_NAMED = _IS_SOURCES & _table.c.id.in_(bindparam("ids", expanding=True))
_ANY = select(_table.c.id).where(_IS_LAPSED | _IS_DUE).limit(1)
_END = delete(_table).where(_IS_SOURCES, _IS_OPEN, _table.c.id == bindparam("of_id"))
_LAPSED = select(_table.c.id).where(_IS_LAPSED)
_VOID = update(_table).where(_IS_NAMED, _IS_OPEN).values(void_ms=bindparam("now_ms", type_=BigInteger))
_DUE = select(_table.c.id).where(_IS_DUE).order_by(_table.c.void_ms, _table.c.id).limit(PORTION)
_CLAIM = update(_table).where(_IS_NAMED).values(due_ms=bindparam("until_ms", type_=BigInteger))
_FORGET = delete(_table).where(_IS_NAMED, _table.c.void_ms <= bindparam("late_ms", type_=BigInteger))
_DROP = delete(_table).where(_IS_SOURCES)


def begin(tx: Tx, source: str) -> str:
    """Note that a grid is about to be asked for jobs; gives the taking's name."""
    name = secrets.token_hex(8)
    tx.execute(insert(_table).values(source=source, id=name, began_ms=tx.lease_now_ms, void_ms=0, due_ms=0))
    return name


def end(tx: Tx, source: str, names: Collection[str]) -> set[str]:
    """Note that what these have given is written down in this transaction, or that it was nothing. Gives those that
    were void or over: what they gave is not to be written down."""
    return {name for name in sorted(names) if not tx.execute(_END, {"of_source": source, "of_id": name}).rowcount}


def is_any_due(tx: Tx, source: str) -> bool:
    """Say whether ``claim`` would give one."""
    return tx.execute(_ANY, _moments(tx, source)).first() is not None


def make_void(tx: Tx, source: str, names: Collection[str]) -> None:
    """Have these seen to, known or not: jobs came of them that are not written down."""
    moments = {"began_ms": tx.lease_now_ms, "void_ms": tx.lease_now_ms, "due_ms": 0}
    tx.each(_insert(tx.is_sqlite), [{"source": source, "id": name, **moments} for name in sorted(names)])


def claim(tx: Tx, source: str) -> list[str]:
    """Make void what has lapsed, and name a portion of what is void, for this adapter to see to; see ``seen_to`` and
    ``give_up``."""
    moments = _moments(tx, source)
    # What another adapter ends just now is not waited for: it may have been stopped in the midst of that.
    for some in portions(list(tx.execute(_unlocked(_LAPSED, tx), moments).scalars())):
        tx.execute(_VOID, {**moments, "ids": some})
    names = list(tx.execute(_unlocked(_DUE, tx), moments).scalars())
    _have_due(tx, source, names, CLAIM_MS)
    return names


def give_up(tx: Tx, source: str, names: Sequence[str]) -> None:
    """Leave to whoever looks next what was claimed and could not be seen to."""
    _have_due(tx, source, names, 0)


def seen_to(tx: Tx, source: str, names: Sequence[str], given_back: int) -> None:
    """Count the jobs of these that were given back, and forget those of which nothing may arrive at the grid any more;
    the others are seen to again."""
    tx.counts["given_lost"] += given_back
    tx.execute(_FORGET, {"of_source": source, "ids": list(names), "late_ms": tx.lease_now_ms - LATE_MS})


def drop(tx: Tx, source: str) -> None:
    """Forget all of a source."""
    tx.execute(_DROP, {"of_source": source})


def _have_due(tx: Tx, source: str, names: Sequence[str], in_ms: int) -> None:
    if names:
        tx.execute(_CLAIM, {"of_source": source, "ids": list(names), "until_ms": tx.lease_now_ms + in_ms})


def _unlocked(rows: Select[Any], tx: Tx) -> Select[Any]:
    return rows if tx.is_sqlite else rows.with_for_update(skip_locked=True)


@cache
def _insert(is_sqlite: bool) -> Insert:
    statement = insert_into(_table, is_sqlite)
    void = {name: statement.excluded[name] for name in ("void_ms", "due_ms")}
    return statement.on_conflict_do_update(index_elements=["source", "id"], set_=void)


def _moments(tx: Tx, source: str) -> dict[str, str | int]:
    return {"of_source": source, "now_ms": tx.lease_now_ms, "lapsed_ms": tx.lease_now_ms - LAPSED_MS}
