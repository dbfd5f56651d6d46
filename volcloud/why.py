"""Why a job is where it is: attempt, cause, who noticed, when, next step. Pure; in the words of the ledger's record."""

from __future__ import annotations

import msgspec

from schemas.ledger import AttemptRow, JobRecord, JobState


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``job why``. Times are ms since 1970, 0 = unknown."""

    job: str
    state: JobState
    attempt: int
    failures: int
    losses: int
    #: How often it was given back unbegun.
    returns: int
    #: Where the attempt was or is: VM, host, slot, hypervisor.
    where: str
    cause: str
    noticed_by: str
    at_ms: int
    #: For a waiting job: the requirements that no VM meets.
    waiting_for: list[str]
    next_step: str
    #: Earlier attempts that ended otherwise than well.
    earlier: list[str]


def explain(record: JobRecord) -> Explanation:
    """Say why a job is in its state."""
    row = record.job
    last = record.attempts[-1] if record.attempts else None
    event = record.events[-1] if record.events else None
    return Explanation(
        job=row.job,
        state=row.state,
        attempt=row.attempt,
        failures=row.failures,
        losses=row.losses,
        returns=row.returns,
        where=_where(last),
        cause=record.cause,
        noticed_by=event.noticed_by if event else "",
        at_ms=event.at_ms if event else row.ended_ms or row.started_ms or row.submitted_ms,
        waiting_for=record.waiting_for,
        next_step=record.next_step,
        earlier=[_sum_up(attempt) for attempt in record.attempts[:-1] if attempt.cause],
    )


def _where(attempt: AttemptRow | None) -> str:
    if attempt is None:
        return ""
    parts = [f"VM {attempt.vm_name or attempt.vm}", f"host {attempt.host}" if attempt.host else ""]
    parts.append(f"job slot {attempt.slot}")
    if attempt.hypervisor_pid:
        parts.append(f"{attempt.hypervisor or 'hypervisor'} process {attempt.hypervisor_pid}")
    return ", ".join(filter(None, parts))


def _sum_up(attempt: AttemptRow) -> str:
    status = f", exit status {attempt.exit_status}" if attempt.exit_status >= 0 else ""
    return f"attempt {attempt.attempt} on {attempt.vm_name or attempt.vm}: {attempt.state}{status}: {attempt.cause}"
