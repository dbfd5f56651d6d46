"""Questions to the ledger: jobs, one job with its why, hosts, VMs, and the numbers that operators watch.

Reads only; run on ``Ledger.read``, so that no question waits for a writer or keeps one waiting. What was counted over
time is in ``Tx.counts``; ``stats`` is what there is now.
"""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, Select, and_, func, select

from adapters.errors import NotFound
from adapters.ledger import outbox, tables
from adapters.ledger.guests import is_ready
from adapters.ledger.orders import selector
from adapters.ledger.records import job_row, record
from adapters.ledger.transaction import Tx
from schemas.ids import split_job_ref
from schemas.ledger import HostRow, JobList, JobRecord, Jobs, JobShow, JobState, RegistryRow
from schemas.vms import HostFacts, VmStatus

_hosts, _vms, _jobs = tables.hosts, tables.vms, tables.jobs
_attempts, _requests, _submissions = tables.attempts, tables.requests, tables.submissions

_ROWS = select(
    _jobs,
    _attempts.c.vm,
    _attempts.c.started_ms,
    _attempts.c.assigned_ms,
).select_from(
    _jobs.outerjoin(_attempts, and_(_attempts.c.job == _jobs.c.number, _attempts.c.attempt == _jobs.c.attempt))
)
_HOSTS = (
    select(_hosts, func.count(_vms.c.vm).label("vms"))
    .select_from(_hosts.outerjoin(_vms, (_vms.c.host == _hosts.c.host) & (_vms.c.state != "absent")))
    .group_by(_hosts.c.host)
    .order_by(_hosts.c.host)
)
_VMS = (
    select(_vms, _hosts.c.seen_ms)
    .select_from(_vms.outerjoin(_hosts, _hosts.c.host == _vms.c.host))
    .where(_vms.c.state != "absent")
    .order_by(_vms.c.host, _vms.c.vm)
)
_HOLDING = (
    select(_attempts.c.vm, _jobs.c.ref)
    .join_from(_attempts, _jobs, _jobs.c.number == _attempts.c.job)
    .where(tables.IS_OPEN)
    .order_by(_jobs.c.number)
)
_RUNNING = select(_attempts.c.state, func.count()).where(tables.IS_OPEN).group_by(_attempts.c.state)
_WAITING = select(func.count(), func.min(_jobs.c.number)).where(tables.IS_WAITING)
_HELD = select(func.count()).where(tables.IS_HELD)
_VM_STATES = select(_vms.c.state, func.count()).group_by(_vms.c.state)
_PRESENT = select(_hosts.c.present, func.count()).group_by(_hosts.c.present)
_ASKING = select(func.count(), func.min(_requests.c.asked_ms)).select_from(_requests)


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What there is now; times are ms, 0 where nothing waits."""

    #: Jobs that have not ended, by state.
    jobs: dict[str, int]
    oldest_wait_ms: int
    requests: int
    oldest_request_ms: int
    leases: int
    outbox: int
    #: VMs by state, hosts by ``present`` and ``absent``.
    vms: dict[str, int]
    hosts: dict[str, int]


def list_jobs(tx: Tx, message: JobList, owner: str = "") -> Jobs:
    """List jobs, newest first, and count by state all that were asked for, beyond the page as well.

    ``owner`` confines a site to its own jobs; empty for a console. Raises NotFound for a malformed name only.
    """
    asked = _asked(message, owner)
    page = [_jobs.c.number < message.before] if message.before is not None else []
    rows = tx.execute(_ROWS.where(*asked, *page).order_by(_jobs.c.number.desc()).limit(message.limit))
    counts = _counted(tx, select(_jobs.c.state, func.count()).where(*asked).group_by(_jobs.c.state))
    return Jobs(call=message.id, jobs=[job_row(row) for row in rows], counts=counts)


def _asked(message: JobList, owner: str) -> list[ColumnElement[bool]]:
    named, job_id, index = selector(message.job)
    conditions: list[ColumnElement[bool]] = [_submissions.c.owner == o for o in {owner, message.owner, named} - {""}]
    if job_id:
        conditions.append(_submissions.c.id == job_id)
    if conditions:
        conditions = [_jobs.c.submission.in_(select(_submissions.c.number).where(*conditions))]
    if index:
        conditions.append(_jobs.c.idx == index)
    if message.states:
        conditions.append(_jobs.c.state.in_([state.value for state in message.states]))
    return conditions


def show(tx: Tx, message: JobShow, owner: str = "") -> JobRecord:
    """Tell all about one job. Raises NotFound, also for another owner's job when ``owner`` confines the sender."""
    row = tx.execute(_ROWS.where(_jobs.c.ref == message.job)).first()
    if row is None or (owner and split_job_ref(message.job)[0] != owner):
        raise NotFound(f"job = {message.job!r}: no such job" + (f" of {owner}" if owner else ""))
    return record(tx, message.id, row)


def hosts(tx: Tx) -> list[HostRow]:
    """List the hosts that the centre knows."""
    return [_host_row(row) for row in tx.execute(_HOSTS)]


def _host_row(row: Row[*tuple[Any, ...]]) -> HostRow:
    facts = msgspec.msgpack.decode(row.facts, type=HostFacts)
    return HostRow(host=row.host, facts=facts, seen_ms=row.seen_ms, present=row.present, vms=row.vms)


def registry(tx: Tx, pattern: str = "*") -> list[RegistryRow]:
    """List the VMs whose name, or principal, fits the pattern; those that a host no longer has are left out."""
    holding: defaultdict[str, list[str]] = defaultdict(list)
    for vm, ref in tx.execute(_HOLDING):
        holding[vm].append(ref)
    rows = [_vm_row(tx, row, holding[row.vm]) for row in tx.execute(_VMS).all()]
    return [r for r in rows if any(fnmatchcase(name, pattern) for name in (r.status.name, r.status.vm))]


def _vm_row(tx: Tx, row: Row[*tuple[Any, ...]], holding: list[str]) -> RegistryRow:
    return RegistryRow(
        host=row.host,
        status=msgspec.msgpack.decode(row.status, type=VmStatus) if row.status else _unreported(row),
        seen_ms=row.seen_ms or row.agent_seen_ms,
        agent_ready=is_ready(row.agent_seen_ms, tx.now_ms, tx.policy),
        agent_since_ms=row.agent_since_ms,
        jobs=holding,
    )


def _unreported(row: Row[*tuple[Any, ...]]) -> VmStatus:
    """Stand in for the status of a VM that has spoken before its host has."""
    return VmStatus(
        vm=row.vm,
        name="",
        state=row.state,
        generation=row.generation,
        hypervisor="",
        cpus=0,
        memory_mib=0,
        disk_mib=0,
    )


def stats(tx: Tx) -> Stats:
    """Count what there is now. Each number comes from a partial index, so a long history costs nothing."""
    running = _counted(tx, _RUNNING)
    waiting, first = tx.execute(_WAITING).one()
    asking, first_asked_ms = tx.execute(_ASKING).one()
    since_ms = tx.execute(select(_jobs.c.submitted_ms).where(_jobs.c.number == first)).scalar() if waiting else None
    counts = running | {
        JobState.SUBMITTED.value: waiting,
        JobState.HELD.value: tx.execute(_HELD).scalar_one(),
    }
    return Stats(
        jobs=counts,
        oldest_wait_ms=tx.now_ms - since_ms if since_ms else 0,
        requests=asking,
        oldest_request_ms=tx.now_ms - first_asked_ms if first_asked_ms else 0,
        leases=sum(running.values()),
        outbox=outbox.depth(tx),
        vms=_counted(tx, _VM_STATES),
        hosts={"present" if present else "absent": count for present, count in tx.execute(_PRESENT)},
    )


def _counted(tx: Tx, statement: Select[Any, int]) -> dict[str, int]:
    return {str(state): int(count) for state, count in tx.execute(statement)}
