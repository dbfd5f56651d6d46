"""Sources in the ledger: what their adapters say of them, for people; and how far the jobs of each are, for grids."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Integer, bindparam, delete, func, select

from adapters.errors import NotFound, SourceInUse
from adapters.ledger import acquisitions, deliveries, demand, remains, tables, takings
from adapters.ledger.acquisitions import owner_of
from adapters.ledger.demand import upsert
from adapters.ledger.events import readable
from adapters.ledger.transaction import Tx
from schemas.grids import SourceDelete, SourceList, SourceRetry, SourceRow, Sources
from schemas.ids import JobRef
from schemas.ledger import AT_WORK, SETTLED, JobState

_sources, _jobs, _attempts = tables.sources, tables.jobs, tables.attempts
_submissions, _acquisitions, _deliveries = tables.submissions, tables.acquisitions, tables.deliveries

#: Jobs of a source that have not ended: read at a time, and in all.
PORTION, MOST_OPEN = 1000, 50_000
#: States in which a job is at its grid as one that we have and that has not ended.
OPEN = frozenset({JobState.SUBMITTED}) | AT_WORK

_OPEN_JOBS = (
    select(_jobs.c.number, _jobs.c.ref, _jobs.c.state, _submissions.c.source_data, _attempts.c.started_ms)
    .join_from(_jobs, _submissions, _submissions.c.number == _jobs.c.submission)
    .outerjoin(_attempts, (_attempts.c.job == _jobs.c.number) & (_attempts.c.attempt == _jobs.c.attempt))
    .where(_jobs.c.owner == bindparam("of_owner"), _jobs.c.state == bindparam("in_state"))
    .where(_jobs.c.number > bindparam("after"), _submissions.c.source_data.is_not(None))
    .order_by(_jobs.c.number)
    .limit(bindparam("most", type_=Integer))
)
_ALL = select(_sources).order_by(_sources.c.source)
_GIVEN = select(_acquisitions.c.source, func.count()).group_by(_acquisitions.c.source)
_IS_UNTOLD = _deliveries.c.what == deliveries.ENDED
_OWED = (
    select(_deliveries.c.source, _deliveries.c.state, func.count())
    .where(_IS_UNTOLD | (_deliveries.c.state == "held"))
    .group_by(_deliveries.c.source, _deliveries.c.state)
)


_UNTOLD_JOBS = (
    select(_jobs.c.number, _jobs.c.ref, _submissions.c.source_data, _attempts.c.started_ms)
    .join_from(_deliveries, _jobs, _jobs.c.number == _deliveries.c.job)
    .join(_submissions, _submissions.c.number == _jobs.c.submission)
    .outerjoin(_attempts, (_attempts.c.job == _jobs.c.number) & (_attempts.c.attempt == _jobs.c.attempt))
    .where(_deliveries.c.source == bindparam("of_source"), _IS_UNTOLD, _jobs.c.number > bindparam("after"))
    .where(_jobs.c.state.in_(SETTLED))
    .order_by(_jobs.c.number)
    .limit(bindparam("most", type_=Integer))
)


class OpenJob(Struct, frozen=True, kw_only=True):
    """A job of a source that has not ended at its grid; ``has_ended``: it has here."""

    number: int
    job: JobRef
    state: JobState
    source_data: bytes
    #: When its payload began, ms since 1970; 0 = not yet.
    started_ms: int = 0
    has_ended: bool = False


def open_jobs(tx: Tx, source: str) -> list[OpenJob]:
    """List a source's jobs that wait or are at work here, and those of whose end it is still to be told, as ones that
    are at ``stage-out``: ``MOST_OPEN`` at most."""
    return list(islice(chain(_open_jobs(tx, owner_of(source)), _untold_jobs(tx, source)), MOST_OPEN))


def _open_jobs(tx: Tx, owner: str) -> Iterator[OpenJob]:
    for state in sorted(OPEN):
        values = {"of_owner": owner, "in_state": state.value, "after": 0, "most": PORTION}
        while page := tx.execute(_OPEN_JOBS, values).all():
            yield from (_open_job(row, state) for row in page)
            values["after"] = page[-1].number


def _untold_jobs(tx: Tx, source: str) -> Iterator[OpenJob]:
    values = {"of_source": source, "after": 0, "most": PORTION}
    while page := tx.execute(_UNTOLD_JOBS, values).all():
        for row in page:
            job = _open_job(row, JobState.STAGE_OUT)
            yield msgspec.structs.replace(job, has_ended=True)
        values["after"] = page[-1].number


def _open_job(row: Any, state: JobState) -> OpenJob:
    started_ms = 0 if state is JobState.SUBMITTED else row.started_ms or 0
    return OpenJob(number=row.number, job=row.ref, state=state, source_data=row.source_data, started_ms=started_ms)


def seen(tx: Tx, source: str, kind: str, trouble: str) -> None:
    """Note that a source's adapter is there, and what is wrong with its grid; empty = nothing is."""
    before = tx.execute(select(_sources.c.trouble, _sources.c.trouble_ms).where(_sources.c.source == source)).first()
    had = before is not None and bool(before.trouble)
    since_ms = 0 if not trouble else before.trouble_ms if before is not None and had else tx.now_ms
    row: dict[str, Any] = {
        "source": source,
        "kind": kind,
        "seen_ms": tx.now_ms,
        "trouble": readable(trouble),
        "trouble_ms": since_ms,
    }
    tx.each(upsert(tx.is_sqlite, ("kind", "seen_ms", "trouble", "trouble_ms")), [row])


def listed(tx: Tx, message: SourceList) -> Sources:
    """List all sources by name."""
    return Sources(call=message.id, sources=_rows(tx))


def retry(tx: Tx, message: SourceRetry) -> Sources:
    """Have all of a source tried again at once that has failed, and give its row. Raises NotFound."""
    _row_of(tx, message.source)
    retried = deliveries.release(tx, message.source) + acquisitions.release(tx, message.source)
    row = msgspec.structs.replace(_row_of(tx, message.source), retried=retried)
    return Sources(call=message.id, sources=[row])


def forget(tx: Tx, message: SourceDelete) -> Sources:
    """Forget a source that has no adapter any more: its row, and with ``give_up`` a portion of what it would be told.
    Gives its row where more is left. Raises NotFound, and SourceInUse, with what is left."""
    source = message.source
    tx.execute(select(_sources.c.source).where(_sources.c.source == source).with_for_update())
    _demand_idle(tx, _row_of(tx, source))
    if not message.give_up:
        remains.demand_none(tx, source)
    takings.drop(tx, source)
    acquisitions.drop(tx, source, PORTION)
    deliveries.drop(tx, source, PORTION)
    if acquisitions.count(tx, source) + deliveries.count(tx, source):
        return Sources(call=message.id, sources=[_row_of(tx, source)])
    tx.execute(delete(_sources).where(_sources.c.source == source))
    return Sources(call=message.id, sources=[])


def _demand_idle(tx: Tx, row: SourceRow) -> None:
    if demand.is_heard_of(tx, row.seen_ms):
        heard = f"its adapter was heard of {demand.unheard_s(tx, row.seen_ms):.0f} s ago"
        words = f"{heard}: stop it, and wait for a minute"
        then = f"take {row.source} out of `sources`, stop its adapter, and a minute later give the same command again"
        raise SourceInUse(f"source = {row.source!r}: {words}", then)
    jobs = [job.job for job in islice(_open_jobs(tx, owner_of(row.source)), remains.MOST_NAMED + 1)]
    if jobs:
        what = "jobs of it wait or run here" if len(jobs) > 1 else "a job of it waits or runs here"
        words = f"{what}, {remains.named(jobs)}: cancel {'them' if len(jobs) > 1 else 'it'}"
        each = f"`volcloud job cancel {jobs[0]}`" + (", and so on" if len(jobs) > 1 else "")
        then = f"{each}; then `volcloud source delete {row.source} --give-up`"
        raise SourceInUse(f"source = {row.source!r}: {words}", then)


def _trouble(tx: Tx, row: Any) -> dict[str, Any]:
    """Say what is wrong with a source: that its adapter is not heard of comes before what that said last."""
    if demand.is_heard_of(tx, row.seen_ms):
        return {"trouble": row.trouble, "trouble_ms": row.trouble_ms}
    said = f"; it said last: {row.trouble}" if row.trouble else ""
    return {"trouble": f"its adapter is not heard of any more{said}", "trouble_ms": row.seen_ms}


def _row_of(tx: Tx, source: str) -> SourceRow:
    rows = {row.source: row for row in _rows(tx)}
    if source not in rows:
        words = f"no source bears that name; known: {', '.join(rows) or 'none'}"
        raise NotFound(f"source = {source!r}: {words}", "`volcloud source list` shows them")
    return rows[source]


def _rows(tx: Tx) -> list[SourceRow]:
    given = {source: int(count) for source, count in tx.execute(_GIVEN)}
    owed = {(source, state): int(count) for source, state, count in tx.execute(_OWED)}
    return [
        SourceRow(
            **{name: getattr(row, name) for name in SourceRow.__struct_fields__[:6]},
            **_trouble(tx, row),
            acquired=given.get(row.source, 0),
            owed=owed.get((row.source, "due"), 0),
            held=owed.get((row.source, "held"), 0),
        )
        for row in tx.execute(_ALL)
    ]
