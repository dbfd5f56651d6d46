"""The jobs of submissions, made inside the database: those of a large array a portion a transaction.

Who submits has his answer with the first portion: from then on the array is counted whole, waits, and is finished by
whichever adapter comes to it. Jobs that have rows go to slots meanwhile; those that have none yet cannot be named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Text, bindparam, cast, func, insert, literal, select, true, update

from adapters.ledger import tables
from adapters.ledger.transaction import Tx, portions
from schemas.ids import JobRef, split_job_ref
from schemas.ledger import JobState

#: Jobs of one array that one transaction makes: some 50 ms, after which others write.
PORTION = 2000

_jobs, _table = tables.jobs, tables.submissions
#: A job of a name that was deleted begins after the deleted one's attempts.
_FIRST_ATTEMPT = (
    select(func.coalesce(func.max(tables.deleted.c.attempt), 0))
    .where(tables.deleted.c.owner == _table.c.owner, tables.deleted.c.id == _table.c.id)
    .correlate(_table)
    .scalar_subquery()
)
_UNMADE = select(_table.c.number, _table.c.made, _table.c.count, _table.c.shape).where(
    tables.IS_UNMADE, ~tables.IS_MADE_AT_ONCE
)
_NEXT = _UNMADE.order_by(_table.c.number).limit(1).with_for_update(skip_locked=True)
_THIS = _UNMADE.where(_table.c.number == bindparam("of_submission")).with_for_update()
_MADE = update(_table).where(_table.c.number == bindparam("of_submission")).values(made=bindparam("now_made"))
_MADE_AT_ONCE = (
    select(_table.c.number)
    .where(tables.IS_UNMADE, tables.IS_MADE_AT_ONCE)
    .order_by(_table.c.number)
    .limit(PORTION)
    .with_for_update(skip_locked=True)
)
_IS_WHOLE = update(_table).where(_table.c.number.in_(bindparam("numbers", expanding=True))).values(made=_table.c.count)
_COUNTED = select(_table.c.made, _table.c.count.label("size")).where(
    _table.c.owner == bindparam("of_owner"), _table.c.id == bindparam("of_id")
)


class _Unmade(NamedTuple):
    number: int
    made: int
    size: int
    shape: int


def first_portion(count: int) -> int:
    """Say how many jobs of a new submission of so many are made with it."""
    return min(count, PORTION)


def begin(tx: Tx, by_count: Mapping[int, Iterable[int]]) -> None:
    """Make the jobs of new submissions, by their size, up to ``first_portion``; others go to ``tx.deferred``."""
    for count, submissions in by_count.items():
        _make(tx, sorted(submissions), 1, first_portion(count))
        tx.deferred.is_making |= count > PORTION


def make_more(tx: Tx) -> bool:
    """Make a portion of the array that was submitted first and is not whole; False when all are."""
    _note_whole(tx)
    return _go_on_with(tx, tx.execute(_NEXT).first())


def make_more_of(tx: Tx, submission: int) -> bool:
    """As ``make_more``, of this one."""
    return _go_on_with(tx, tx.execute(_THIS, {"of_submission": submission}).first())


def is_to_come(tx: Tx, ref: JobRef) -> str:
    """Say of a job that has no row yet how far its array is; empty where there is no such job."""
    owner, job_id, index = split_job_ref(ref)
    row = tx.execute(_COUNTED, {"of_owner": owner, "of_id": job_id}).first()
    if row is None or not 0 < row.made < index <= row.size:
        return ""
    return (
        f"job = {ref!r}: its array is being written down, {row.made:,} of {row.size:,} jobs so far: again in a moment"
    )


def _note_whole(tx: Tx) -> None:
    """Write down what a release that knew no portions, and may still be at work beside us, did not say of its own."""
    if whole := list(tx.execute(_MADE_AT_ONCE).scalars()):
        tx.execute(_IS_WHOLE, {"numbers": whole})
        tx.deferred.is_making |= len(whole) == PORTION


def _go_on_with(tx: Tx, row: Any) -> bool:
    if row is None:
        return False
    found = _Unmade._make(row)
    last = min(found.size, found.made + PORTION)
    _make(tx, [found.number], found.made + 1, last)
    tx.execute(_MADE, {"of_submission": found.number, "now_made": last})
    tx.fresh_shapes.add(found.shape)
    tx.deferred.is_making = True
    return True


def _make(tx: Tx, submissions: list[int], first: int, last: int) -> None:
    """Make jobs of each of these: 100,000 rows never pass through here."""
    start = select(literal(first).label("value")).cte("indices", recursive=True)
    indices = start.union_all(select(start.c.value + 1).where(start.c.value < last))
    values = _values(tx, indices.c.value)
    chosen = _table.c.number.in_(bindparam("numbers", expanding=True))
    each = _table.join(indices, true())
    rows = select(*values.values()).select_from(each).where(chosen).order_by(_table.c.number, indices.c.value)
    statement = insert(_jobs).from_select(list(values), rows)
    for some in portions(submissions):
        tx.execute(statement, {"numbers": some})


def _values(tx: Tx, index: ColumnElement[int]) -> dict[str, ColumnElement[Any]]:
    return {
        "submission": _table.c.number,
        "idx": index,
        "ref": _table.c.owner + "/" + _table.c.id + "." + cast(index, Text),
        "shape": _table.c.shape,
        "rank": _table.c.rank,
        "state": literal(JobState.SUBMITTED.value),
        "attempt": _FIRST_ATTEMPT,
        "failures": literal(0),
        "losses": literal(0),
        "lost_on": literal(""),
        "reason": literal(""),
        "submitted_ms": _table.c.submitted_ms,
        "ended_ms": literal(0),
        "since_ms": literal(tx.lease_now_ms, BigInteger),
        "owner": _table.c.owner,
    }
