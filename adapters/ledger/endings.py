"""Sites are told how their jobs end: a message into a site's own queue, in the transaction that ends the job.

It goes by the outbox, so a site hears of each end at least once, as long as its queue has room; a site that missed
some asks (``job.list``). Others are told nothing: people look, and an edge hears by ``deliveries``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, bindparam, case, func, select

from adapters.ledger import outbox, tables
from adapters.ledger.attempt_work import Work
from adapters.ledger.transaction import Tx, portions
from broker.routes import down
from schemas.codec import clip
from schemas.ids import Kind, kind_of
from schemas.ledger import JobState
from schemas.sites import JobEnded

_jobs, _attempts = tables.jobs, tables.attempts

#: Most of what an attempt has left that is told, bytes of its row: a guest decides that, and a site's queue is finite.
MOST_BYTES = 16 << 10
_ENDED = (
    select(
        *(_jobs.c[name] for name in ("ref", "owner", "state", "reason", "submitted_ms")),
        *(_attempts.c[name] for name in ("attempt", "exit_status", "cause", "started_ms")),
        _attempts.c.ended_ms.label("over_ms"),
        (func.length(_attempts.c.work) > bindparam("most")).label("is_cut"),
        case((func.length(_attempts.c.work) <= bindparam("most"), _attempts.c.work)).label("work"),
    )
    .select_from(
        _jobs.outerjoin(_attempts, and_(_attempts.c.job == _jobs.c.number, _attempts.c.attempt == _jobs.c.attempt))
    )
    .where(_jobs.c.number.in_(bindparam("numbers", expanding=True)))
    .order_by(_jobs.c.number)
)


def is_told(owner: str) -> bool:
    """Say whether whoever owns a job is told how it ends."""
    return kind_of(owner) is Kind.SITE


def put(tx: Tx, numbers: Sequence[int]) -> None:
    """Have the ends of these jobs told, as they and their last attempts stand now; all of them of sites."""
    rows = _rows(tx, numbers, MOST_BYTES)
    outbox.put_all(tx, [(down(row.owner), _ended(row, tx.now_ms)) for row in rows])


def of_jobs(tx: Tx, numbers: Sequence[int], most_bytes: int) -> list[JobEnded]:
    """Tell how these jobs have ended, with what they left as far as its list has no more than so many bytes."""
    return [_ended(row, row.over_ms or 0) for row in _rows(tx, numbers, most_bytes)]


def _rows(tx: Tx, numbers: Sequence[int], most_bytes: int) -> list[Row[*tuple[Any, ...]]]:
    return [row for some in portions(numbers) for row in tx.execute(_ENDED, {"numbers": some, "most": most_bytes})]


def _ended(row: Row[*tuple[Any, ...]], ended_ms: int) -> JobEnded:
    is_done = row.state == JobState.DONE
    return JobEnded(
        job=row.ref,
        state=JobState(row.state),
        attempt=row.attempt or 0,
        exit_status=-1 if row.exit_status is None else row.exit_status,
        cause="" if is_done else clip(row.reason or row.cause or ""),
        submitted_ms=row.submitted_ms,
        started_ms=row.started_ms or 0,
        ended_ms=ended_ms,
        outputs=Work.read(row.work).readable(),
        is_cut=bool(row.is_cut),
    )
