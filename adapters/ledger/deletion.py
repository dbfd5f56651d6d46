"""Deleting jobs: their rows go, and what they have stored is noted down to be removed from the store afterwards.

Only jobs that have ended or are held are deleted, never one that waits or runs. Of a name that was deleted a trace
stays: a job that is submitted under it anew begins with a later attempt, so that neither an old guest's late word nor
the removal of the old outputs can touch the new one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, func, select

from adapters.ledger import orders, tables, tallies
from adapters.ledger.orders import Chosen, Portion
from adapters.ledger.transaction import PORTION, Insert, Tx, insert_into, portions
from schemas.ids import split_job_ref
from schemas.ledger import SETTLED, JobDelete

_jobs, _submissions = tables.jobs, tables.submissions

#: Rows that go with their job.
_OF_JOBS = (tables.events, tables.attempts, tables.deliveries)

_LOCK = (
    select(*(_jobs.c[name] for name in Chosen._fields), _jobs.c.ref)
    .where(_jobs.c.number.in_(bindparam("numbers", expanding=True)), _jobs.c.state.in_(SETTLED))
    .with_for_update()
)
_EMPTY = select(_submissions.c.number).where(
    _submissions.c.number.in_(bindparam("submissions", expanding=True)),
    ~tables.IS_UNMADE | tables.IS_MADE_AT_ONCE,
    ~select(_jobs.c.number).where(_jobs.c.submission == _submissions.c.number).exists(),
)


def delete_named(tx: Tx, message: JobDelete, owner: str = "", by: str = "") -> Portion:
    """Delete a portion of the jobs of a name, and once it was the last count those left since they wait or run.

    Else as ``orders.cancel``.
    """
    found = orders.select_jobs(tx, message.job, owner or message.owner)
    chosen = orders.portion_of(tx, found, SETTLED)
    is_last = len(chosen) < PORTION
    left = 0
    if is_last and not found.index:
        left = sum(tallies.of_submissions(tx, [found.submission]).values()) - len(chosen)
    elif is_last:
        left = 1 - len(chosen)
    return Portion(delete_jobs(tx, [job.number for job in chosen]), left, is_last)


def delete_jobs(tx: Tx, numbers: Sequence[int]) -> int:
    """Delete those of these jobs that have ended or are held; gives how many."""
    rows = [row for some in portions(sorted(numbers)) for row in tx.execute(_LOCK, {"numbers": some})]
    if not rows:
        return 0
    _leave_traces(tx, rows)
    locked = [row.number for row in rows]
    for table, column in (*((table, table.c.job) for table in _OF_JOBS), (_jobs, _jobs.c.number)):
        for some in portions(locked):
            tx.execute(delete(table).where(column.in_(some)))
    for row in rows:
        tallies.add(tx, row.submission, row.owner, row.state, -1)
    _drop_empty(tx, sorted({row.submission for row in rows}))
    tx.counts["deleted_jobs"] += len(rows)
    return len(rows)


def _drop_empty(tx: Tx, submissions: Sequence[int]) -> None:
    empty = [number for some in portions(submissions) for number in tx.execute(_EMPTY, {"submissions": some}).scalars()]
    tallies.write(tx)
    tallies.forget(tx, empty)
    for some in portions(empty):
        tx.execute(delete(tables.inputs).where(tables.inputs.c.submission.in_(some)))
        tx.execute(delete(_submissions).where(_submissions.c.number.in_(some)))


def _leave_traces(tx: Tx, rows: Sequence[Any]) -> None:
    """Note which outputs are to be removed, and the highest attempt under each name."""
    begun = [row for row in rows if row.attempt]
    highest: dict[tuple[str, str], int] = {}
    for row in begun:
        owner, job_id, _ = split_job_ref(row.ref)
        highest[owner, job_id] = max(row.attempt, highest.get((owner, job_id), 0))
    removals, deleted = _upserts(tx.is_sqlite)
    tx.each(removals, [{"ref": row.ref, "attempt": row.attempt} for row in sorted(begun, key=lambda row: row.ref)])
    traces = [
        {"owner": owner, "id": job_id, "attempt": attempt, "deleted_ms": tx.lease_now_ms}
        for (owner, job_id), attempt in sorted(highest.items())
    ]
    tx.each(deleted, traces)


@cache
def _upserts(is_sqlite: bool) -> tuple[Insert, Insert]:
    removals, deleted = insert_into(tables.removals, is_sqlite), insert_into(tables.deleted, is_sqlite)
    return (
        removals.on_conflict_do_update(index_elements=["ref"], set_={"attempt": removals.excluded.attempt}),
        deleted.on_conflict_do_update(
            index_elements=["owner", "id"],
            set_={
                "attempt": _greater(is_sqlite)(deleted.excluded.attempt, tables.deleted.c.attempt),
                "deleted_ms": deleted.excluded.deleted_ms,
            },
        ),
    )


def _greater(is_sqlite: bool) -> Any:
    return func.max if is_sqlite else func.greatest
