"""What sources are asked for: slots that ask for work and that nothing which waits here fits, shared among sources.

Whatever could be paired has been, so a free slot that is left has no job here. Nobody hoards: what a source has been
asked for, and what was given and is not submitted yet, counts as had. What is left is shared by weight among the
sources that may have something: one that has just said that it has nothing costs the others nothing, and one that takes
long to answer costs them little: what it may yet give waits for the next slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, select

from adapters.ledger import accounts, acquisitions, classes, tables
from adapters.ledger.acquisitions import owner_of
from adapters.ledger.transaction import Insert, Tx, insert_into
from schemas.jobs import Machine

_requests, _sources = tables.requests, tables.sources

#: How long a claim counts that nobody takes back, ms: whoever asks a grid has its answer by then.
CLAIM_MS = 120_000
#: For how long other sources leave alone what one is being asked for, ms: most answer by then.
REGARD_MS = 2_000
#: A source whose adapter was not heard of for so long is not waited for, ms.
FRESH_MS = 60_000
#: Classes of free slots that a grid is told of.
MOST_OFFERS = 20

_WITH_AHEAD = (
    select(_requests.c.offer, func.count())
    .where(tables.IS_READY)
    .group_by(_requests.c.offer)
    .order_by(func.count().desc(), _requests.c.offer)
    .limit(MOST_OFFERS)
)
_FREE = _WITH_AHEAD.where(_requests.c.ahead == 0)
_ANY_WITH_AHEAD = select(_requests.c.vm).where(tables.IS_READY).limit(1)
_ANY = _ANY_WITH_AHEAD.where(_requests.c.ahead == 0)
_OTHERS = select(_sources).where(_sources.c.source != bindparam("of_source"))
_OWN = select(_sources.c.claimed, _sources.c.claimed_until_ms).where(_sources.c.source == bindparam("of_source"))
_SEEN = select(_sources.c.seen_ms).where(_sources.c.source == bindparam("of_source"))


class FreeSlots(NamedTuple):
    """Equal slots for which a source is to be asked."""

    machine: Machine
    slots: int


def is_any(tx: Tx, *, ahead: bool = False) -> bool:
    """Say whether some slot is free, or with ``ahead``, whether one would take a job ahead."""
    return tx.execute(_ANY_WITH_AHEAD if ahead else _ANY).first() is not None


def claim(tx: Tx, source: str, most: int, *, ahead: bool = False) -> list[FreeSlots]:
    """Say for which slots a source is to be asked, ``most`` at a time, and count them as had until ``settle``.

    With ``ahead`` what slots ask for ahead counts as well: its jobs are short, and would else wait for the way here.
    """
    tx.serialise_matching()
    free = [(offer, int(count)) for offer, count in tx.execute(_WITH_AHEAD if ahead else _FREE)]
    share = min(most, _part(tx, source, sum(count for _, count in free)))
    told = _first(free, share)
    if share:
        _write(tx, source, claimed=_live(tx, source) + share, claimed_until_ms=tx.lease_now_ms + CLAIM_MS)
    machines = classes.offers(tx, [offer for offer, _ in told])
    return [FreeSlots(machines[offer], count) for offer, count in told]


def settle(tx: Tx, source: str, *, asked: int, given: int, pause_s: float) -> None:
    """Note what came of asking a source for jobs for ``asked`` slots: how many it gave, and how long it will be left
    alone."""
    moments = {"asked_ms": tx.now_ms, "next_ms": tx.now_ms + int(pause_s * 1000)}
    moments |= {"given_ms": tx.now_ms} if given else {}
    _write(tx, source, claimed=max(0, _live(tx, source) - asked), **moments)


def silent_s(tx: Tx, source: str) -> float:
    """Say for how long no adapter of a source has been heard of, seconds; 0 where one is there, or it is not known."""
    seen_ms = tx.execute(_SEEN, {"of_source": source}).scalar()
    return 0.0 if seen_ms is None or is_heard_of(tx, seen_ms) else unheard_s(tx, seen_ms)


def is_heard_of(tx: Tx, seen_ms: int) -> bool:
    """Say whether an adapter that was heard of then is taken to be there still."""
    return unheard_s(tx, seen_ms) < FRESH_MS / 1000


def unheard_s(tx: Tx, seen_ms: int) -> float:
    """Say for how long nothing was heard since then, seconds. A clock that was once ahead says nothing."""
    return abs(tx.now_ms - seen_ms) / 1000


def _live(tx: Tx, source: str) -> int:
    """Count the slots for which adapters of this source are asking."""
    row = tx.execute(_OWN, {"of_source": source}).first()
    return row.claimed if row is not None and row.claimed_until_ms > tx.lease_now_ms else 0


def _part(tx: Tx, source: str, free: int) -> int:
    others = list(tx.execute(_OTHERS, {"of_source": source}))
    regarded_ms = tx.lease_now_ms + CLAIM_MS - REGARD_MS
    claimed = sum(row.claimed for row in others if row.claimed_until_ms > regarded_ms) + _live(tx, source)
    left = free - claimed - acquisitions.count(tx, source)
    fresh_ms = tx.now_ms - FRESH_MS
    hungry = [source, *(row.source for row in others if row.next_ms <= tx.now_ms and row.seen_ms > fresh_ms)]
    weights = accounts.shares(tx, [owner_of(one) for one in hungry])
    part: int = -(-left * weights[owner_of(source)] // sum(weights.values()))
    return max(0, part)


def _first(free: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Cut a list of slots where it has enough."""
    told = []
    for offer, count in free:
        if most > 0:
            told.append((offer, min(count, most)))
            most -= count
    return told


def _write(tx: Tx, source: str, **values: int) -> None:
    row = {"source": source, "kind": "", "seen_ms": tx.now_ms, **values}
    tx.each(upsert(tx.is_sqlite, tuple(sorted({"seen_ms", *values}))), [row])


@cache
def upsert(is_sqlite: bool, names: tuple[str, ...]) -> Insert:
    """Write these columns of a source's row."""
    statement = insert_into(_sources, is_sqlite)
    changed: dict[str, Any] = {name: statement.excluded[name] for name in names}
    return statement.on_conflict_do_update(index_elements=["source"], set_=changed)
