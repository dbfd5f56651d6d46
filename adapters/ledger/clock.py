"""The lease clock: the time by which leases, presence, waits and ages are judged, one for the whole ledger.

It is no clock of a machine. It goes on by steps that one job adapter makes, and only when all beats that were said
before the step have been read, by whichever adapter: so it neither steps with a wall clock nor runs ahead of the beats.
``LeaseWatch`` decides how far; the functions below keep the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    bindparam,
    delete,
    select,
    update,
)

from adapters.ledger.tables import metadata
from adapters.ledger.transaction import Tx
from schemas.jobs import LeaseMark

#: The kinds of adapter that have rows.
JOB, STORAGE = "job", "storage"

_clock = Table(
    "lease_clock",
    metadata,
    Column("number", Integer, nullable=False, autoincrement=False),
    Column("now_ms", BigInteger, nullable=False),
    #: The adapter that lets it go on.
    Column("kept_by", Text, nullable=False),
    PrimaryKeyConstraint("number", name="pk_lease_clock"),
)
#: Adapters at work: how often each has emptied its hands, its last mark among the beats that came back, and when it
#: was last at work, by the lease clock.
_adapters = Table(
    "adapters",
    metadata,
    Column("adapter", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("mark", Text, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("adapter", name="pk_adapters"),
)

_CLOCK = select(_clock.c.kept_by, _clock.c.now_ms)
_READERS = select(_adapters.c.adapter, _adapters.c.turns, _adapters.c.mark).where(_adapters.c.kind == JOB)
_MARK = update(_adapters).where(_adapters.c.adapter == bindparam("of_adapter")).values(mark=bindparam("last"))
_LEAVE = delete(_adapters).where(_adapters.c.adapter.in_(bindparam("names", expanding=True)))
_GO_ON = (
    update(_clock).where(_clock.c.kept_by == bindparam("keeper")).values(now_ms=_clock.c.now_ms + bindparam("step_ms"))
)
_GIVE_UP = update(_clock).where(_clock.c.kept_by == bindparam("keeper")).values(kept_by="")
_KEEP = update(_clock).where(_clock.c.kept_by == bindparam("before")).values(kept_by=bindparam("keeper"))
_SEEN = select(_adapters.c.seen_ms).where(_adapters.c.kind == bindparam("of_kind"))


class Reader(NamedTuple):
    """An adapter that reads beats: how often it has had none left in its hands, and its last mark that came back."""

    turns: int
    mark: str


class Readers(NamedTuple):
    """Who reads beats, by name, which of them keeps the clock, and what it shows."""

    kept_by: str
    readers: Mapping[str, Reader]
    now_ms: int = 0


def enter(tx: Tx, kind: str) -> None:
    """Begin to read beats, before any can come: an adapter of that name that was here before holds nothing any more.

    Should it have kept the clock, others know better than this one how far it may go on.
    """
    values = {"kind": kind, "seen_ms": tx.lease_now_ms, "turns": 0, "mark": ""}
    statement = tx.insert(_adapters).on_conflict_do_update(index_elements=["adapter"], set_=values)
    tx.execute(statement, {"adapter": tx.instance, **values})
    tx.execute(_GIVE_UP, {"keeper": tx.instance})


def take_turn(tx: Tx, kind: str) -> None:
    """Note that this adapter has written down all that it had been given when it was last asked."""
    values = {"kind": kind, "seen_ms": tx.lease_now_ms}
    statement = tx.insert(_adapters).on_conflict_do_update(
        index_elements=["adapter"], set_={**values, "turns": _adapters.c.turns + 1}
    )
    tx.execute(statement, {"adapter": tx.instance, "turns": 1, "mark": "", **values})


def mark_all(tx: Tx, marks: Sequence[tuple[str, LeaseMark]]) -> list[None]:
    """Note that adapters' marks have come back, with the beats before them written down in this transaction."""
    tx.each(_MARK, [{"of_adapter": adapter, "last": mark.id} for adapter, mark in marks])
    return [None] * len(marks)


def readers(tx: Tx) -> Readers:
    """List who reads beats."""
    rows = {name: Reader(turns, mark) for name, turns, mark in tx.execute(_READERS)}
    kept_by, now_ms = tx.execute(_CLOCK).one()
    return Readers(kept_by, rows, now_ms)


def keep(tx: Tx, before: str) -> bool:
    """Become who keeps the clock, after ``before``; says whether nobody else was faster."""
    return tx.execute(_KEEP, {"before": before, "keeper": tx.instance}).rowcount == 1


def go_on(tx: Tx, step_ms: int) -> None:
    """Let the clock go on, if this adapter still keeps it."""
    tx.execute(_GO_ON, {"keeper": tx.instance, "step_ms": step_ms})


def leave(tx: Tx, adapters: Sequence[str]) -> None:
    """Forget adapters that have ended, or hold nothing any more. Idempotent."""
    tx.execute(_LEAVE, {"names": list(adapters)})


def last_seen_ms(tx: Tx, kind: str) -> int:
    """Give the time at which an adapter of that kind was last at work; 0 = never."""
    return max(tx.execute(_SEEN, {"of_kind": kind}).scalars(), default=0)
