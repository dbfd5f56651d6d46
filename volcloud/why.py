"""Why a job is where it is: attempt, cause, who noticed, when, next step. Pure; made of the ledger's record."""

from __future__ import annotations

import msgspec

from schemas.ledger import AttemptRow, JobEvent, JobRecord, JobState

#: What to do where the ledger names no next step.
_NEXT = {
    JobState.SUBMITTED: "it waits for a VM; `volcloud vm list` shows those that there are",
    JobState.DONE: "fetch its outputs with `volcloud job fetch {job}`",
    JobState.HELD: "read its output with `volcloud job logs {job}`, then release it with `volcloud job retry {job}`",
    JobState.CANCELLED: "nothing; `volcloud job retry {job}` would not bring it back, submit it under a new id",
}
_AT_WORK = "nothing, it is at work; `volcloud job show {job} --follow` follows it"
_IN_TROUBLE = "mend what it names; the job then goes on by itself, `volcloud job show {job} --follow` follows it"


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
    event = _telling_event(record.events, row.state)
    return Explanation(
        job=row.job,
        state=row.state,
        attempt=row.attempt,
        failures=row.failures,
        losses=row.losses,
        returns=row.returns,
        where=_where(last),
        cause=_cause(record, last, event),
        noticed_by=event.noticed_by if event else "",
        at_ms=event.at_ms if event else row.ended_ms or row.started_ms or row.submitted_ms,
        waiting_for=record.waiting_for,
        next_step=record.next_step or _next_step(row.state, last).format(job=row.job),
        earlier=[_sum_up(attempt) for attempt in record.attempts[:-1] if attempt.cause],
    )


def _telling_event(events: list[JobEvent], state: JobState) -> JobEvent | None:
    """Choose the event that says most: the last with a detail; while all goes well, simply the last."""
    told = [event for event in events if event.detail]
    if state in (JobState.HELD, JobState.CANCELLED, JobState.SUBMITTED) and told:
        return told[-1]
    return events[-1] if events else None


def _cause(record: JobRecord, last: AttemptRow | None, event: JobEvent | None) -> str:
    if record.waiting_for:
        return "no VM meets what it requires"
    if record.job.reason:
        return record.job.reason
    if last is not None and last.cause:
        return last.cause
    if event is not None:
        return event.detail or event.event
    return "nothing has happened to it yet"


def _next_step(state: JobState, last: AttemptRow | None) -> str:
    """Name the usual next step; a cause while it is at work is trouble, such as a store that is full."""
    return _NEXT.get(state, _IN_TROUBLE if last is not None and last.cause else _AT_WORK)


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
