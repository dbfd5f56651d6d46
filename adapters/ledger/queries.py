"""Questions to the ledger: one job with its why, and the numbers that operators watch; lists are pages of their own.

Reads only; run on ``Ledger.read``, so that no question waits for a writer or keeps one waiting. What was counted over
time is in ``Tx.counts``; ``stats`` is what there is now.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, FromClause, Select, bindparam, func, select

from adapters.errors import NotFound
from adapters.ledger import arrays, outbox, tables, tallies
from adapters.ledger.listing import ROWS
from adapters.ledger.presence import presence_in_sql, vm_state_in_sql
from adapters.ledger.records import record
from adapters.ledger.transaction import Tx
from schemas.ids import split_job_ref
from schemas.ledger import UNASSIGNED, JobRecord, JobShow, JobState

_hosts, _vms, _jobs = tables.hosts, tables.vms, tables.jobs
_attempts, _requests = tables.attempts, tables.requests

_ROW = ROWS.where(_jobs.c.ref == bindparam("ref"))
_RUNNING = select(_attempts.c.state, func.count()).where(tables.IS_OPEN).group_by(_attempts.c.state)
_FIRST_WAITING = (
    select(_jobs.c.since_ms)
    .where(_jobs.c.owner == bindparam("of_owner"), _jobs.c.state == JobState.SUBMITTED.value)
    .order_by(_jobs.c.number)
    .limit(1)
)
_VMS_ON_HOSTS = _vms.outerjoin(_hosts, _hosts.c.host == _vms.c.host)
_ASKING = select(func.count()).select_from(_requests)


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What there is now; times are ms of the lease clock, 0 where nothing waits."""

    #: Jobs that have not ended, by state.
    jobs: dict[str, int]
    oldest_wait_ms: int
    requests: int
    leases: int
    outbox: int
    #: VMs by state, hosts by presence.
    vms: dict[str, int]
    hosts: dict[str, int]


def show(tx: Tx, message: JobShow, owner: str = "") -> JobRecord:
    """Tell all about one job. Raises NotFound, also for another owner's job when ``owner`` confines the sender."""
    row = tx.execute(_ROW, {"ref": message.job}).first()
    is_foreign = bool(owner) and split_job_ref(message.job)[0] != owner
    if row is None or is_foreign:
        to_come = "" if is_foreign else arrays.is_to_come(tx, message.job)
        raise NotFound(to_come or f"job = {message.job!r}: no such job" + (f" of {owner}" if owner else ""))
    return record(tx, message.id, row)


def stats(tx: Tx) -> Stats:
    """Count what there is now. Each number comes from a partial index or a tally: a long history costs nothing."""
    running = _counted(tx, _RUNNING)
    tallied = tallies.of_all(tx)
    since_ms = _longest_waiting(tx)
    counts = running | {state.value: tallied.get(state, 0) for state in UNASSIGNED}
    return Stats(
        jobs=counts,
        oldest_wait_ms=tx.lease_now_ms - since_ms if since_ms else 0,
        requests=int(tx.execute(_ASKING).scalar_one()),
        leases=sum(running.values()),
        outbox=outbox.depth(tx),
        vms=_counted_by(tx, vm_state_in_sql(tx), _VMS_ON_HOSTS),
        hosts=_counted_by(tx, presence_in_sql(tx), _hosts),
    )


def _counted_by(tx: Tx, word: ColumnElement[Any], rows: FromClause) -> dict[str, int]:
    inner = select(word.label("word")).select_from(rows).subquery()
    return _counted(tx, select(inner.c.word, func.count()).group_by(inner.c.word))


def _longest_waiting(tx: Tx) -> int:
    """Give when the job was submitted that has waited for longest, 0 when none waits."""
    owners = [owner for owner, _ in tallies.owners(tx, [JobState.SUBMITTED])]
    since = [tx.execute(_FIRST_WAITING, {"of_owner": owner}).scalar() for owner in owners]
    return min((moment for moment in since if moment), default=0)


def _counted(tx: Tx, statement: Select[Any, int]) -> dict[str, int]:
    return {str(state): int(count) for state, count in tx.execute(statement)}
