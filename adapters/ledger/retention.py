"""What the ledger keeps, and for how long: whatever can grow has an end here, by age.

Found on a reading connection, deleted in portions that each look again, so that nothing long runs while others wait to
write. ``docs/explanation/ledger.md`` lists what is kept; jobs go by ``deletion``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import ColumnElement, Select, Table, bindparam, delete, select, update

from adapters.ledger import tables, tallies
from adapters.ledger.deletion import delete_jobs
from adapters.ledger.transaction import Tx
from schemas.ledger import JobState

_jobs, _attempts, _vms, _hosts = tables.jobs, tables.attempts, tables.vms, tables.hosts
_requests, _outbox, _submissions = tables.requests, tables.outbox, tables.submissions

#: Rows that go in one transaction.
PORTION = 500
#: A message that the broker has not taken for so long concerns nobody any more, ms: leases and questions are over.
OUTBOX_LIFE_MS = 86_400_000
#: How long the trace of a deleted name stays, ms: no guest remembers an attempt for longer.
TRACE_LIFE_MS = 30 * 86_400_000
#: How long a class must have been retired before it goes, ms: twice what adapters remember its number for.
RETIRED_MS = 7_200_000


class Keep(Struct, frozen=True, kw_only=True):
    """How long things are kept that have ended, seconds."""

    #: Jobs that are done, failed or cancelled, with their outputs.
    jobs_s: float = 30 * 86400.0
    #: Jobs that are held, from the end of their last attempt: they wait for a person.
    held_s: float = 90 * 86400.0
    #: VMs that their host no longer has, and those of which no host has spoken.
    vms_s: float = 7 * 86400.0
    #: Hosts that were not heard of, with their VMs.
    hosts_s: float = 90 * 86400.0


class Found(NamedTuple):
    """Rows that have outlived their time: what finds them, and what deletes those that still have."""

    what: str
    find: Callable[[Tx], Sequence[Any]]
    remove: Callable[[Tx, Sequence[Any]], int]


def kinds(keep: Keep) -> list[Found]:
    """List everything that ends by age."""
    return [
        Found("jobs", lambda tx: _ended_jobs(tx, keep), delete_jobs),
        Found("vms", lambda tx: _lost_vms(tx, keep), _remove_vms),
        Found("hosts", lambda tx: _silent_hosts(tx, keep), lambda tx, hosts: _remove_hosts(tx, hosts, keep)),
        Found("messages", _old_messages, _removing(_outbox, _outbox.c.message_id)),
        Found("traces", _old_traces, _remove_traces),
        *(Found(f"{table.name}", _retired(table), _remove_retired(table)) for table in _REFERENCES),
    ]


def retire(tx: Tx) -> None:
    """Mark classes that nothing refers to, and unmark those that something does again."""
    for table, references in _REFERENCES.items():
        used = references(table)
        idle = select(table.c.number).where(table.c.retired_ms == 0, ~used).limit(PORTION)
        tx.execute(update(table).where(table.c.number.in_(idle)).values(retired_ms=tx.now_ms))
        again = select(table.c.number).where(table.c.retired_ms > 0, used).limit(PORTION)
        tx.execute(update(table).where(table.c.number.in_(again)).values(retired_ms=0))


def _ended_jobs(tx: Tx, keep: Keep) -> list[int]:
    before_ms = tx.now_ms - int(keep.jobs_s * 1000)
    ended = (
        select(_jobs.c.number)
        .where(tables.HAS_ENDED, _jobs.c.ended_ms < before_ms)
        .order_by(_jobs.c.ended_ms)
        .limit(PORTION)
    )
    return list(tx.execute(ended).scalars()) or _held_jobs(tx, tx.now_ms - int(keep.held_s * 1000))


def _held_jobs(tx: Tx, before_ms: int) -> list[int]:
    latest = (_attempts.c.job == _jobs.c.number) & (_attempts.c.attempt == _jobs.c.attempt)
    for owner, state in tallies.owners(tx, [JobState.HELD]):
        held = (
            select(_jobs.c.number)
            .join_from(_jobs, _attempts, latest)
            .where(_jobs.c.owner == owner, _jobs.c.state == state, _attempts.c.ended_ms < before_ms)
            .limit(PORTION)
        )
        if numbers := list(tx.execute(held).scalars()):
            return numbers
    return []


def _holds_nothing() -> ColumnElement[bool]:
    return ~select(_attempts.c.job).where(tables.IS_OPEN, _attempts.c.vm == _vms.c.vm).exists()


def _is_over(before_ms: int) -> ColumnElement[bool]:
    """A VM that its host no longer has, or that no host has ever had; and whose guest is silent."""
    unreported = (_vms.c.host == "") & (_vms.c.agent_seen_ms < before_ms)
    return (tables.IS_ABSENT & (_vms.c.agent_seen_ms < before_ms)) | (tables.IS_THERE & unreported)


def _lost_vms(tx: Tx, keep: Keep) -> list[tuple[str, int]]:
    before_ms = tx.now_ms - int(keep.vms_s * 1000)
    found: list[tuple[str, int]] = []
    for condition in (tables.IS_ABSENT, tables.IS_THERE & (_vms.c.host == "")):
        lost = select(_vms.c.vm).where(condition, _vms.c.agent_seen_ms < before_ms, _holds_nothing()).limit(PORTION)
        found += [(vm, before_ms) for vm in tx.execute(lost).scalars()]
    return found


def _remove_vms(tx: Tx, lost: Sequence[tuple[str, int]]) -> int:
    names = [vm for vm, _ in lost]
    before_ms = min(before for _, before in lost)
    tx.execute(delete(_requests).where(_requests.c.vm.in_(names), _requests.c.repeated_ms < before_ms))
    return tx.execute(delete(_vms).where(_vms.c.vm.in_(names), _is_over(before_ms), _holds_nothing())).rowcount


def _silent_hosts(tx: Tx, keep: Keep) -> list[str]:
    silent = select(_hosts.c.host).where(_hosts.c.seen_ms < tx.now_ms - int(keep.hosts_s * 1000)).limit(PORTION)
    return list(tx.execute(silent).scalars())


def _remove_hosts(tx: Tx, hosts: Sequence[str], keep: Keep) -> int:
    """Remove the VMs of silent hosts first, a portion; a host goes once it has none."""
    before_ms = tx.now_ms - int(keep.hosts_s * 1000)
    still = (_hosts.c.host.in_(hosts)) & (_hosts.c.seen_ms < before_ms)
    theirs = _vms.c.host.in_(select(_hosts.c.host).where(still)) & _holds_nothing()
    some = select(_vms.c.vm).where(theirs, _vms.c.agent_seen_ms < before_ms).limit(PORTION)
    gone = tx.execute(delete(_vms).where(_vms.c.vm.in_(some))).rowcount
    has_vms = select(_vms.c.vm).where(_vms.c.host == _hosts.c.host).exists()
    return gone + tx.execute(delete(_hosts).where(still, ~has_vms)).rowcount


def _old_messages(tx: Tx) -> list[str]:
    """Find messages of the outbox by their ids, which begin with the time at which they were made."""
    oldest = f"{tx.now_ms - OUTBOX_LIFE_MS:012x}"
    floor = f"{oldest[:8]}-{oldest[8:]}"
    return list(tx.execute(select(_outbox.c.message_id).where(_outbox.c.message_id < floor).limit(PORTION)).scalars())


def _old_traces(tx: Tx) -> list[int]:
    before_ms = tx.now_ms - TRACE_LIFE_MS
    old = select(tables.deleted.c.id).where(tables.deleted.c.deleted_ms < before_ms).limit(1)
    return [before_ms] if tx.execute(old).first() else []


def _remove_traces(tx: Tx, before: Sequence[int]) -> int:
    return tx.execute(delete(tables.deleted).where(tables.deleted.c.deleted_ms < before[0])).rowcount


def _shapes_in_use(table: Table) -> ColumnElement[bool]:
    return select(_submissions.c.number).where(_submissions.c.shape == table.c.number).exists()


def _offers_in_use(table: Table) -> ColumnElement[bool]:
    offered = select(_vms.c.vm).where(_vms.c.offer == table.c.number).exists()
    asked = select(_requests.c.vm).where(tables.IS_READY, _requests.c.offer == table.c.number).exists()
    return offered | asked


#: What refers to each table of classes.
_REFERENCES: dict[Table, Callable[[Table], ColumnElement[bool]]] = {
    tables.shapes: _shapes_in_use,
    tables.offers: _offers_in_use,
}


def _retired(table: Table) -> Callable[[Tx], list[int]]:
    def find(tx: Tx) -> list[int]:
        old: Select[Any] = select(table.c.number).where(
            table.c.retired_ms > 0, table.c.retired_ms < tx.now_ms - RETIRED_MS
        )
        return list(tx.execute(old.limit(PORTION)).scalars())

    return find


def _remove_retired(table: Table) -> Callable[[Tx, Sequence[Any]], int]:
    def remove(tx: Tx, numbers: Sequence[Any]) -> int:
        still = (table.c.retired_ms > 0) & ~_REFERENCES[table](table)
        return tx.execute(delete(table).where(table.c.number.in_(numbers), still)).rowcount

    return remove


def _removing(table: Table, column: Any) -> Callable[[Tx, Sequence[Any]], int]:
    statement = delete(table).where(column.in_(bindparam("keys", expanding=True)))
    return lambda tx, keys: tx.execute(statement, {"keys": list(keys)}).rowcount
