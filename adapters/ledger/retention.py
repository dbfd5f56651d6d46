"""What the ledger keeps, and for how long: whatever can grow has an end here, by age, which the lease clock tells.

A machine's clock that is set right makes nothing old; nor does a centre that was switched off for a year. DueRows on a
reading connection, deleted in portions that each look again, so that nothing long runs while others wait to
write; ``docs/explanation/ledger.md`` lists what is kept; jobs go by ``deletion``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import Column, ColumnElement, Select, Table, and_, bindparam, delete, select, tuple_, update

from adapters.ledger import happenings, tables
from adapters.ledger.deletion import delete_jobs
from adapters.ledger.deliveries import IS_TOLD
from adapters.ledger.transaction import Tx

_jobs, _attempts, _vms, _hosts = tables.jobs, tables.attempts, tables.vms, tables.hosts
_requests, _outbox, _submissions, _deleted = tables.requests, tables.outbox, tables.submissions, tables.deleted

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
    #: Jobs that are held, from then on: they wait for a person.
    held_s: float = 90 * 86400.0
    #: VMs that their host no longer has, and those of which no host has spoken.
    vms_s: float = 7 * 86400.0
    #: Hosts that were not heard of, with their VMs.
    hosts_s: float = 90 * 86400.0
    #: Events of VMs and hosts.
    events_s: float = 30 * 86400.0


class DueRows(NamedTuple):
    """Rows that are due, a portion: what finds them, and what deletes, or marks, those that still are."""

    what: str
    find: Callable[[Tx], Sequence[Any]]
    remove: Callable[[Tx, Sequence[Any]], int]


def kinds(keep: Keep) -> list[DueRows]:
    """List everything that ends by age."""
    return [
        DueRows("jobs", lambda tx: _ended_jobs(tx, keep), delete_jobs),
        DueRows("vms", lambda tx: _lost_vms(tx, keep), _remove_vms),
        DueRows("hosts", lambda tx: _silent_hosts(tx, keep), lambda tx, hosts: _remove_hosts(tx, hosts, keep)),
        DueRows(
            "events",
            lambda tx: happenings.older(tx, _before_ms(tx, keep.events_s), PORTION),
            lambda tx, rows: happenings.remove(tx, rows, _before_ms(tx, keep.events_s)),
        ),
        DueRows("messages", _old_messages, _removing(_outbox, _outbox.c.message_id)),
        DueRows("traces", _old_traces, _remove_traces),
        *(DueRows(f"{table.name}", _retired(table), _remove_retired(table)) for table in _REFERENCES),
    ]


def marks() -> list[DueRows]:
    """List what is marked before anything is deleted: classes that nothing refers to, and those that something does
    again; and rows of which a release without the lease clock, which may still be at work beside us, has not said
    since when they are: they begin to age now."""
    ageless = [
        _ageless(_outbox, _outbox.c.message_id, _outbox.c.put_ms),
        _ageless(_jobs, _jobs.c.number, _jobs.c.since_ms, tables.HAS_ENDED),
        _ageless(_jobs, _jobs.c.number, _jobs.c.since_ms, tables.IS_HELD),
    ]
    return ageless + [
        found
        for table, references in _REFERENCES.items()
        for found in (
            _marking(table, (table.c.retired_ms == 0) & ~references(table), lambda tx: tx.lease_now_ms),
            _marking(table, (table.c.retired_ms > 0) & references(table), lambda tx: 0),
        )
    ]


def _ageless(table: Table, key: Column[Any], since_ms: Column[Any], *conditions: ColumnElement[bool]) -> DueRows:
    is_ageless = and_(since_ms == 0, *conditions)

    def begin(tx: Tx, keys: Sequence[Any]) -> int:
        return tx.execute(update(table).where(key.in_(keys), is_ageless).values({since_ms: tx.lease_now_ms})).rowcount

    return DueRows(
        table.name, lambda tx: list(tx.execute(select(key).where(is_ageless).limit(PORTION)).scalars()), begin
    )


def _marking(table: Table, condition: ColumnElement[bool], since_ms: Callable[[Tx], int]) -> DueRows:
    def find(tx: Tx) -> list[int]:
        return list(tx.execute(select(table.c.number).where(condition).limit(PORTION)).scalars())

    def mark(tx: Tx, numbers: Sequence[Any]) -> int:
        still = update(table).where(table.c.number.in_(numbers), condition)
        return tx.execute(still.values(retired_ms=since_ms(tx))).rowcount

    return DueRows(table.name, find, mark)


def _before_ms(tx: Tx, kept_s: float) -> int:
    return tx.lease_now_ms - int(kept_s * 1000)


def _ended_jobs(tx: Tx, keep: Keep) -> list[int]:
    for condition, kept_s in ((tables.HAS_ENDED, keep.jobs_s), (tables.IS_HELD, keep.held_s)):
        is_old = (_jobs.c.since_ms > 0) & (_jobs.c.since_ms < _before_ms(tx, kept_s))
        old = select(_jobs.c.number).where(condition, is_old, IS_TOLD)
        if numbers := list(tx.execute(old.order_by(_jobs.c.since_ms).limit(PORTION)).scalars()):
            return numbers
    return []


def _holds_nothing() -> ColumnElement[bool]:
    return ~select(_attempts.c.job).where(tables.IS_OPEN, _attempts.c.vm == _vms.c.vm).exists()


def _is_over(before_ms: int) -> ColumnElement[bool]:
    """A VM that its host no longer has, or that no host has ever had; and whose guest is silent."""
    is_silent = _vms.c.beat_ms < before_ms
    return (tables.IS_ABSENT & is_silent) | (tables.IS_THERE & (_vms.c.host == "") & is_silent)


def _lost_vms(tx: Tx, keep: Keep) -> list[tuple[str, int]]:
    before_ms = _before_ms(tx, keep.vms_s)
    found: list[tuple[str, int]] = []
    for condition in (tables.IS_ABSENT, tables.IS_THERE & (_vms.c.host == "")):
        lost = select(_vms.c.vm).where(condition, _vms.c.beat_ms < before_ms, _holds_nothing()).limit(PORTION)
        found += [(vm, before_ms) for vm in tx.execute(lost).scalars()]
    return found


def _remove_vms(tx: Tx, lost: Sequence[tuple[str, int]]) -> int:
    names = [vm for vm, _ in lost]
    before_ms = min(before for _, before in lost)
    tx.execute(delete(_requests).where(_requests.c.vm.in_(names), _requests.c.repeated_ms < before_ms))
    return tx.execute(delete(_vms).where(_vms.c.vm.in_(names), _is_over(before_ms), _holds_nothing())).rowcount


def _silent_hosts(tx: Tx, keep: Keep) -> list[str]:
    silent = select(_hosts.c.host).where(_hosts.c.beat_ms < _before_ms(tx, keep.hosts_s)).limit(PORTION)
    return list(tx.execute(silent).scalars())


def _remove_hosts(tx: Tx, hosts: Sequence[str], keep: Keep) -> int:
    """Remove the VMs of silent hosts first, a portion; a host goes once it has none."""
    before_ms = _before_ms(tx, keep.hosts_s)
    still = (_hosts.c.host.in_(hosts)) & (_hosts.c.beat_ms < before_ms)
    is_over = (_vms.c.beat_ms < before_ms) & _holds_nothing()
    some = select(_vms.c.vm).where(_vms.c.host.in_(select(_hosts.c.host).where(still)), is_over).limit(PORTION)
    # Said twice: a VM whose guest beats meanwhile, or that moves, is judged anew by the outer conditions alone.
    gone = tx.execute(delete(_vms).where(_vms.c.vm.in_(some), _vms.c.host.in_(hosts), is_over)).rowcount
    has_vms = select(_vms.c.vm).where(_vms.c.host == _hosts.c.host).exists()
    return gone + tx.execute(delete(_hosts).where(still, ~has_vms)).rowcount


def _old_messages(tx: Tx) -> list[str]:
    old = select(_outbox.c.message_id).where(_outbox.c.put_ms > 0, _outbox.c.put_ms < tx.lease_now_ms - OUTBOX_LIFE_MS)
    return list(tx.execute(old.limit(PORTION)).scalars())


def _old_traces(tx: Tx) -> list[tuple[str, str]]:
    old = select(_deleted.c.owner, _deleted.c.id).where(_deleted.c.deleted_ms < tx.lease_now_ms - TRACE_LIFE_MS)
    return [(owner, name) for owner, name in tx.execute(old.limit(PORTION))]


def _remove_traces(tx: Tx, names: Sequence[tuple[str, str]]) -> int:
    still = _deleted.c.deleted_ms < tx.lease_now_ms - TRACE_LIFE_MS
    return tx.execute(delete(_deleted).where(tuple_(_deleted.c.owner, _deleted.c.id).in_(names), still)).rowcount


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
            table.c.retired_ms > 0, table.c.retired_ms < tx.lease_now_ms - RETIRED_MS
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
