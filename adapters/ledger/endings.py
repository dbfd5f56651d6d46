"""Sites are told how their jobs end: a message into a site's own queue, in the transaction that ends the job.

It goes by the outbox, so a site hears of each end at least once, as long as its queue has room; a site that missed
some asks (``job.list``). Others are told nothing: people look, and an edge hears by ``deliveries``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, and_, bindparam, select

from adapters.ledger import outbox, tables
from adapters.ledger.attempt_work import Work
from adapters.ledger.transaction import Tx, portions
from broker.outbound import body_of
from broker.routes import down
from schemas.codec import clip
from schemas.errors import DecodeError
from schemas.ids import Kind, kind_of
from schemas.ledger import JobState
from schemas.sites import JobEnded

_jobs, _attempts = tables.jobs, tables.attempts

_ENDED = (
    select(
        *(_jobs.c[name] for name in ("ref", "owner", "state", "attempt", "reason", "submitted_ms")),
        *(_attempts.c[name] for name in ("exit_status", "cause", "started_ms", "ended_ms", "work")),
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
    rows = [row for some in portions(numbers) for row in tx.execute(_ENDED, {"numbers": some})]
    outbox.put_all(tx, [(down(row.owner), _fitting(_ended(tx, row))) for row in rows])


def _ended(tx: Tx, row: Row[*tuple[Any, ...]]) -> JobEnded:
    return JobEnded(
        job=row.ref,
        state=JobState(row.state),
        attempt=row.attempt,
        exit_status=-1 if row.exit_status is None else row.exit_status,
        cause=clip(row.reason or row.cause or ""),
        submitted_ms=row.submitted_ms,
        started_ms=row.started_ms or 0,
        ended_ms=row.ended_ms or tx.now_ms,
        outputs=Work.read(row.work).outputs,
    )


def _fitting(message: JobEnded) -> JobEnded:
    """Leave the outputs out where there are more than a message holds: their names are a guest's to choose."""
    try:
        body_of(message)
    except DecodeError:
        return msgspec.structs.replace(message, outputs=[], is_cut=True)
    return message
