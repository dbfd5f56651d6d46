"""Jobs that grids have given, from then until they are jobs of ours: written down before anything is done with them.

A job of a grid is known by its source, its id there and the grid's number of the try; it becomes one submission of
ours, whose name says all three, so it is done once however often it is given, and to however many adapters. One that
cannot be done stays until its source has been told.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import BigInteger, Integer, bindparam, case, delete, func, select, tuple_, update

from adapters.ledger import tables
from adapters.ledger.events import readable
from adapters.ledger.transaction import Insert, Tx, insert_into, portions
from broker.backoff import backoff

_table, _submissions = tables.acquisitions, tables.submissions

#: Acquisitions that are taken at once, and for how long whoever has taken some has for them, ms.
PORTION, CLAIM_MS = 50, 600_000
#: How often an adapter may have ended that had one before it is taken alone: it may be what ends them. And how often
#: until it is not begun any more.
SUSPECT, MOST_LOST = 3, 20
#: Bounds of the wait before the next try, seconds; and tries until one is given up: some two hours.
FIRST_S, LONGEST_S = 5.0, 600.0
MOST_TRIES = 20

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class AcquisitionKey(NamedTuple):
    """An acquisition's name in the ledger."""

    source: str
    id: str
    attempt: int

    @property
    def owner(self) -> str:
        """Who owns its job here."""
        return owner_of(self.source)

    @property
    def job_id(self) -> str:
        """The id of its job here. A name that no job may have is told by a digest."""
        plain = self.id if _PLAIN.fullmatch(self.id) else "x" + sha256(self.id.encode()).hexdigest()[:40]
        return f"{plain}-{self.attempt}"


class Acquisition(Struct, frozen=True, kw_only=True):
    """A job as its grid gave it: ``data`` is its source's own, ``work`` what it asks for, encoded; none with a flaw."""

    key: AcquisitionKey
    data: bytes
    work: bytes = b""
    flaw: str = ""
    #: This one included.
    tries: int = 0
    #: How often an adapter that had it has ended, by no order of anybody's, since anything was said of it.
    lost: int = 0


def owner_of(source: str) -> str:
    """Name the owner of a source's jobs here; its adapters bear the same name, and a number where there are several."""
    return f"adapter-source-{source}"


_IS_KEY = tuple_(_table.c.source, _table.c.id, _table.c.attempt) == tuple_(
    bindparam("of_source"), bindparam("of_id"), bindparam("of_attempt")
)
_COUNT = select(func.count()).select_from(_table).where(_table.c.source == bindparam("of_source"))
_IS_DUE = (_table.c.source == bindparam("of_source")) & (_table.c.due_ms <= bindparam("now_ms"))
_IS_SUSPECT = _table.c.lost >= SUSPECT
_IN_ORDER = select(_table).order_by(_table.c.due_ms, _table.c.lost).with_for_update(skip_locked=True)
_DUE = _IN_ORDER.where(_IS_DUE, ~_IS_SUSPECT).limit(PORTION)
_SUSPECT = _IN_ORDER.where(_IS_DUE, _IS_SUSPECT).limit(1)
_HAS_SUSPECT = select(_table.c.id).where(_IS_DUE, _IS_SUSPECT).limit(1)
#: It is still somebody's whose time is up: who that was has ended.
_LAPSED = case((_table.c.taken_by != "", 1), else_=0)
_CLAIM = (
    update(_table)
    .where(_IS_KEY)
    .values(
        due_ms=bindparam("until_ms", type_=BigInteger),
        tries=_table.c.tries + 1,
        lost=_table.c.lost + _LAPSED,
        taken_by=bindparam("by"),
    )
)
_RENEW = (
    update(_table)
    .where(_IS_KEY, _table.c.taken_by == bindparam("by"))
    .values(due_ms=bindparam("until_ms", type_=BigInteger))
)
_TAKEN = select(_table.c.id, _table.c.attempt).where(
    _table.c.source == bindparam("of_source"), _table.c.taken_by == bindparam("by")
)
_GIVE_BACK = (
    update(_table)
    .where(_IS_KEY)
    .values(
        due_ms=bindparam("until_ms", type_=BigInteger),
        tries=_table.c.tries - bindparam("not_tried", type_=Integer),
        lost=_table.c.lost + bindparam("once_more", type_=Integer),
        taken_by="",
    )
)
_AGAIN = (
    update(_table)
    .where(_IS_KEY)
    .values(
        due_ms=bindparam("until_ms", type_=BigInteger),
        error=bindparam("why"),
        flaw=bindparam("its_flaw"),
        tries=bindparam("so_often"),
        lost=0,
        taken_by="",
    )
)
_BROUGHT = (
    select(_table.c.source, _table.c.id, _table.c.attempt, _table.c.data)
    .where(_table.c.source == bindparam("of_source"), _table.c.flaw == "")
    .order_by(_table.c.due_ms)
    .limit(bindparam("most", type_=Integer))
)
_STOP = (
    update(_table)
    .where(_IS_KEY, _table.c.flaw == "")
    .values(due_ms=bindparam("until_ms", type_=BigInteger), flaw=bindparam("its_flaw"), tries=0, lost=0, taken_by="")
)
_FORGET = delete(_table).where(_IS_KEY)
_NAMED = select(_table.c.source, _table.c.id, _table.c.attempt).where(
    _table.c.source.in_(bindparam("sources", expanding=True)), _table.c.id.in_(bindparam("ids", expanding=True))
)
_THERE = select(_submissions.c.id).where(
    _submissions.c.owner == bindparam("of_owner"), _submissions.c.id.in_(bindparam("ids", expanding=True))
)


def put(tx: Tx, given: Sequence[Acquisition]) -> int:
    """Write down what a grid has given; says how much of it is new. What is known, as a job too, changes nothing."""
    submitted = _submitted(tx, [one.key for one in given])
    new = [one for one in given if one.key.job_id not in submitted]
    statement = _insert(tx.is_sqlite)
    before = {source: count(tx, source) for source in {one.key.source for one in new}}
    tx.each(statement, [_row(tx, one) for one in new])
    return sum(count(tx, source) - had for source, had in before.items())


def unknown(tx: Tx, keys: Sequence[AcquisitionKey]) -> list[AcquisitionKey]:
    """Name those of a source's that are not here, and never became a job of ours that still is."""
    # In this order: what becomes a job between the two questions is in one answer at least.
    there = {
        (row.source, row.id, row.attempt)
        for some in portions(sorted({key.id for key in keys}))
        for row in tx.execute(_NAMED, {"sources": sorted({key.source for key in keys}), "ids": some})
    }
    left = [key for key in keys if tuple(key) not in there]
    submitted = _submitted(tx, left)
    return [key for key in left if key.job_id not in submitted]


def _submitted(tx: Tx, keys: Sequence[AcquisitionKey]) -> set[str]:
    owners = {key.owner for key in keys}
    assert len(owners) <= 1, "one source gives what one adapter writes down"
    ids = sorted({key.job_id for key in keys})
    return {
        job_id
        for owner in owners
        for some in portions(ids)
        for job_id in tx.execute(_THERE, {"of_owner": owner, "ids": some}).scalars()
    }


def count(tx: Tx, source: str) -> int:
    """Count those of a source."""
    return int(tx.execute(_COUNT, {"of_source": source}).scalar_one())


def take(tx: Tx, source: str, *, is_idle: bool = True) -> list[Acquisition]:
    """Claim a portion of what is due, what has been due for longest first; see ``again``, ``refuse``, ``forget``.

    What may have ended those who had it comes alone, and to an adapter that ``is_idle``: no other is to be at work.
    """
    due = {"of_source": source, "now_ms": tx.lease_now_ms}
    rows = (tx.execute(_SUSPECT, due).all() if is_idle else []) or tx.execute(_DUE, due).all()
    until_ms = tx.lease_now_ms + CLAIM_MS
    tx.each(_CLAIM, [{**_named(_key(row)), "until_ms": until_ms, "by": tx.instance} for row in rows])
    return [_read(row) for row in rows]


def has_suspect(tx: Tx, source: str) -> bool:
    """Say whether one is due that is to be taken alone."""
    return tx.execute(_HAS_SUSPECT, {"of_source": source, "now_ms": tx.lease_now_ms}).first() is not None


def brought(tx: Tx, source: str, most: int) -> list[tuple[AcquisitionKey, bytes]]:
    """Name those of a source that are to become jobs of ours, with what it keeps with each."""
    return [(_key(row), row.data) for row in tx.execute(_BROUGHT, {"of_source": source, "most": most})]


def stop(tx: Tx, key: AcquisitionKey, why: str) -> None:
    """Make no job of one, as its grid wants it stopped, which is told that it has ended; an unknown key is no error."""
    tx.each(_STOP, [{**_named(key), "until_ms": tx.lease_now_ms, "its_flaw": readable(why)}])


def renew(tx: Tx, source: str, keys: Collection[AcquisitionKey], *, has_ended: bool = False) -> None:
    """Keep what this adapter has taken and is still at, and have due at once what else it has taken, untried; unknown
    keys are no error. One that is started anew is at nothing: of what it had when it ``has_ended`` that is counted."""
    rows = tx.execute(_TAKEN, {"of_source": source, "by": tx.instance}).all()
    taken = {AcquisitionKey(source, row.id, row.attempt) for row in rows}
    until_ms = tx.lease_now_ms + CLAIM_MS
    tx.each(_RENEW, [{**_named(key), "until_ms": until_ms, "by": tx.instance} for key in sorted(taken & set(keys))])
    back = {"until_ms": tx.lease_now_ms, "not_tried": int(not has_ended), "once_more": int(has_ended)}
    tx.each(_GIVE_BACK, [{**_named(key), **back} for key in sorted(taken - set(keys))])


def again(tx: Tx, one: Acquisition, error: str, *, spends_patience: bool = True) -> None:
    """Have it tried later, and later each time; once it was tried too often it has a flaw, which is to be told.

    What is the centre's own trouble spends no patience: it is tried until that is over.
    """
    tx.counts["given_again"] += 1
    is_over = one.tries >= MOST_TRIES and not one.flaw and spends_patience
    wait_s = 0.0 if is_over else next(islice(backoff(FIRST_S, LONGEST_S), min(one.tries, MOST_TRIES), None))
    flaw = f"given up after {one.tries} tries: {readable(error)}" if is_over else one.flaw
    _change(tx, one, wait_s, error, flaw, 0 if is_over else one.tries)


def release(tx: Tx, source: str) -> int:
    """Have all of a source tried again at once that has failed and waits, as if for the first time; says how many.
    What an adapter is at stays."""
    is_waiting = (_table.c.error != "") & (_table.c.taken_by == "") & (_table.c.due_ms > tx.lease_now_ms)
    statement = update(_table).where(_table.c.source == source, is_waiting)
    return tx.execute(statement.values(due_ms=tx.lease_now_ms, tries=0)).rowcount


def refuse(tx: Tx, one: Acquisition, flaw: str) -> None:
    """Have its source told that it cannot be done, and why."""
    _change(tx, one, 0.0, flaw, readable(flaw), 0)


def _change(tx: Tx, one: Acquisition, wait_s: float, error: str, flaw: str, tries: int) -> None:
    until_ms = tx.lease_now_ms + int(wait_s * 1000)
    row = {**_named(one.key), "until_ms": until_ms, "why": readable(error), "its_flaw": flaw, "so_often": tries}
    tx.each(_AGAIN, [row])


def forget(tx: Tx, keys: Sequence[AcquisitionKey]) -> None:
    """Drop what is a job of ours now, or was told to its source; unknown keys are no error."""
    tx.each(_FORGET, [_named(key) for key in keys])


def drop(tx: Tx, source: str, most: int) -> None:
    """Forget so many of a source, whose grid hears nothing of it."""
    some = select(_table.c.id, _table.c.attempt).where(_table.c.source == source).limit(most)
    is_one = tuple_(_table.c.id, _table.c.attempt).in_(some)
    tx.execute(delete(_table).where(_table.c.source == source, is_one))


def _row(tx: Tx, one: Acquisition) -> dict[str, Any]:
    rest = {"due_ms": tx.lease_now_ms, "tries": 0, "error": ""}
    return {**one.key._asdict(), "data": one.data, "work": one.work or None, "flaw": readable(one.flaw), **rest}


def _key(row: Any) -> AcquisitionKey:
    return AcquisitionKey(row.source, row.id, row.attempt)


def _read(row: Any) -> Acquisition:
    lost = row.lost + (1 if row.taken_by else 0)
    said = {"data": row.data, "work": row.work or b"", "flaw": row.flaw}
    return Acquisition(key=_key(row), **said, tries=row.tries + 1, lost=lost)


def _named(key: AcquisitionKey) -> dict[str, Any]:
    return {"of_source": key.source, "of_id": key.id, "of_attempt": key.attempt}


@cache
def _insert(is_sqlite: bool) -> Insert:
    return insert_into(_table, is_sqlite).on_conflict_do_nothing(index_elements=["source", "id", "attempt"])
