"""One job with all that is known of it: its attempts, its diary, why it waits, and what a person can do.

Turns rows into the wire's words; ``queries`` is what callers use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, bindparam, select

from adapters.ledger import assignments, classes, clock, deliveries, demand, events, tables
from adapters.ledger.attempt_work import Work
from adapters.ledger.matching import nearest
from adapters.ledger.transaction import Tx
from adapters.ledger.why import Facts, explain
from schemas.description import JobDescription
from schemas.ids import MessageId, split_job_ref
from schemas.ledger import AT_WORK, SETTLED, UNASSIGNED, AttemptRow, JobEvent, JobRecord, JobRow, JobState
from schemas.vms import VmStatus

_attempts, _vms = tables.attempts, tables.vms

_ATTEMPTS = (
    select(_attempts, _vms.c.status)
    .select_from(_attempts.outerjoin(_vms, _vms.c.vm == _attempts.c.vm))
    .where(_attempts.c.job == bindparam("of_job"))
    .order_by(_attempts.c.attempt)
)
_OFFERED = select(_vms.c.offer).where(_vms.c.offer.is_not(None), _vms.c.state != "absent").distinct()


def record(tx: Tx, call: MessageId, row: Row[*tuple[Any, ...]]) -> JobRecord:
    """Tell all about the job of this row of ``queries``."""
    description = assignments.descriptions(tx, {row.submission})[row.submission]
    made = tx.execute(_ATTEMPTS, {"of_job": row.number}).all()
    diary = _diary(tx, row, made)
    why = explain(_facts(tx, row, description, diary[-1], made[-1].cause if made else ""))
    return JobRecord(
        call=call,
        job=job_row(row),
        description=description,
        attempts=[_attempt_row(one) for one in made],
        events=diary,
        cause=why.cause,
        waiting_for=why.waiting_for,
        next_step=why.next_step,
    )


def job_row(row: Row[*tuple[Any, ...]]) -> JobRow:
    """Turn a row of ``queries`` into the wire's."""
    waits = row.state in UNASSIGNED
    return JobRow(
        number=row.number,
        job=row.ref,
        state=JobState(row.state),
        attempt=row.attempt,
        priority=-row.rank,
        failures=row.failures,
        losses=row.losses,
        returns=row.returns,
        vm="" if waits else row.vm or "",
        submitted_ms=row.submitted_ms,
        started_ms=0 if waits else row.started_ms or 0,
        ended_ms=row.ended_ms,
        reason=row.reason,
    )


def _attempt_row(row: Row[*tuple[Any, ...]]) -> AttemptRow:
    work = Work.read(row.work)
    status = msgspec.msgpack.decode(row.status, type=VmStatus) if row.status else None
    return AttemptRow(
        attempt=row.attempt,
        state=row.state,
        vm=row.vm,
        vm_name=status.name if status else "",
        host=row.host,
        slot=row.slot,
        vm_generation=row.generation,
        assigned_ms=row.assigned_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        exit_status=row.exit_status,
        cause=row.cause,
        usage=work.usage,
        steps=work.steps,
        outputs=work.outputs,
        boot_id=row.boot_id,
        hypervisor=row.hypervisor,
        hypervisor_pid=row.hypervisor_pid,
    )


def _diary(tx: Tx, job: Row[*tuple[Any, ...]], made: Sequence[Row[*tuple[Any, ...]]]) -> list[JobEvent]:
    """Tell the plain course, which the rows hold, and the rest, which was noted, in one order."""
    owner = split_job_ref(job.ref)[0]
    told = [JobEvent(at_ms=job.submitted_ms, attempt=0, event="submitted", noticed_by=owner)]
    for one in made:
        told += _course(one)
    return sorted(told + events.of_job(tx, job.number), key=lambda event: (event.at_ms, event.attempt))


def _course(one: Row[*tuple[Any, ...]]) -> list[JobEvent]:
    guest, where = f"{one.vm} (guest agent)", f"{one.vm} slot {one.slot}"
    steps = [
        (one.assigned_ms, "assigned", one.assigned_by, f"to {where}" + (f" on {one.host}" if one.host else "")),
        (one.started_ms, "started", guest, ""),
        (one.ended_ms if one.completion_id else 0, one.state, one.noticed_by, one.cause),
    ]
    return [
        JobEvent(at_ms=at_ms, attempt=one.attempt, event=event, noticed_by=noticed_by, detail=detail)
        for at_ms, event, noticed_by, detail in steps
        if at_ms
    ]


def _facts(tx: Tx, row: Row[*tuple[Any, ...]], description: JobDescription, last: JobEvent, trouble: str) -> Facts:
    seen_ms = clock.last_seen_ms(tx, clock.STORAGE)
    state = JobState(row.state)
    waits = state is JobState.SUBMITTED
    source = deliveries.source_of(tx, row.number) if state in SETTLED else ""
    owed, is_owed_held = deliveries.owed(tx, row.number) if source else ("", False)
    return Facts(
        job=row.ref,
        state=state,
        failures=row.failures,
        losses=row.losses,
        most_failures=description.attempts,
        reason=row.reason,
        trouble=trouble if state in AT_WORK else "",
        event=last.detail or last.event,
        wait_s=max(0, row.not_before_ms - tx.lease_now_ms) / 1000 if waits else 0.0,
        lacking=_lacking(tx, description) if waits else [],
        # No longer than the job has been here: the machine's clock may have been set since.
        stage_in_s=min(tx.now_ms - (row.assigned_ms or tx.now_ms), tx.lease_now_ms - row.since_ms) / 1000,
        source=source,
        owed=owed,
        is_owed_held=is_owed_held,
        source_silent_s=demand.silent_s(tx, source) if owed else 0.0,
        storage_silent_s=(tx.lease_now_ms - seen_ms) / 1000 if seen_ms else None,
    )


def _lacking(tx: Tx, description: JobDescription) -> list[str] | None:
    numbers = [number for number in tx.execute(_OFFERED).scalars() if number is not None]
    return nearest(description.requirements, classes.offers(tx, numbers).values())
