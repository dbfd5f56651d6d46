"""What hosts say of themselves and of their VMs.

It decides nothing about a job, with two exceptions: a VM that its own host calls paused or saved keeps what its
payloads have begun, and one that does not run gets no new job. A host is heard about its own VMs only, and of no more
new ones than it may have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import BigInteger, bindparam, case, func, select, update

from adapters.ledger import absences, changes, guests, readiness, repute, tables
from adapters.ledger.changes import Reported
from adapters.ledger.events import readable
from adapters.ledger.readiness import NOT_RUNNING, PAUSED
from adapters.ledger.transaction import Insert, Tx, insert_into, portions
from schemas.vms import UNDECIDED, HostBye, HostInventory, VmState, VmStatus

log = logging.getLogger(__name__)

#: VMs that a host has had and has no more are remembered for a while, so many for each that it may have; beyond them
#: it is heard of no new one.
GONE_FOR_EACH = 4
#: A report that claims to be this much older than the last one is believed all the same: the host's clock was set back.
REORDER_MS = 120_000
#: Cpus that a VM may have at most, whatever its host says: a host makes no larger one.
MOST_CPUS = 256

_hosts, _vms, _attempts = tables.hosts, tables.vms, tables.attempts


_REPORTED = select(*(_vms.c[name] for name in Reported._fields))
_NAMED = _REPORTED.where(_vms.c.vm.in_(bindparam("vms", expanding=True)))
_THERE = _REPORTED.where(tables.IS_THERE, _vms.c.host == bindparam("of_host"))
_HOST = select(_vms.c.host).where(_vms.c.vm == bindparam("of_vm"))
_LAST = select(_hosts.c.reported_ms).where(_hosts.c.host == bindparam("of_host"))
_GONE = select(func.count()).select_from(_vms).where(tables.IS_ABSENT, _vms.c.host == bindparam("of_host"))
_ABSENT = update(_vms).where(_vms.c.vm == bindparam("of_vm")).values(state="absent", paused_ms=0)
_ALIVE = (
    update(_hosts)
    .where(_hosts.c.host == bindparam("of_host"))
    .values(present=True, seen_ms=bindparam("now_ms"), beat_ms=bindparam("lease_now_ms"))
)
_BYE = update(_hosts).where(_hosts.c.host == bindparam("of_host")).values(present=False, seen_ms=bindparam("now_ms"))
_LEFT = bindparam("most_ms", type_=BigInteger) - _attempts.c.stretched_ms
_MORE = case((bindparam("paused_ms", type_=BigInteger) < _LEFT, bindparam("paused_ms", type_=BigInteger)), else_=_LEFT)
_STRETCH = (
    update(_attempts)
    .where(tables.IS_OPEN, _attempts.c.vm.in_(bindparam("vms", expanding=True)))
    .where(_attempts.c.lease_expires_ms < bindparam("until_ms"))
    .values(lease_expires_ms=bindparam("until_ms"))
)
_ADD = (
    update(_attempts)
    .where(tables.IS_OPEN, _attempts.c.vm == bindparam("of_vm"), _attempts.c.over_ms > 0)
    .values(over_ms=_attempts.c.over_ms + _MORE, stretched_ms=_attempts.c.stretched_ms + _MORE)
)


def report(tx: Tx, host: str, message: HostInventory) -> None:
    """Take a host's full report; VMs that it no longer lists are absent. An overtaken one says only that it lives.

    Said again anyway, so ``Ledger.write_lightly`` is enough. Requests of VMs that run again are counted as
    ``requests_unblocked``: ``match`` finds them, in this transaction if it is a durable one, or in any later one.
    """
    if not _is_newest(tx, host, message.at_ms):
        tx.counts["stale_inventory"] += 1
        tx.execute(_ALIVE, {"of_host": host, "now_ms": tx.now_ms, "lease_now_ms": tx.lease_now_ms})
        absences.heard(tx, host)
        return
    _save_host(tx, host, message)
    absences.heard(tx, host)
    said = [_of_a_host(status) for status in message.vms]
    known = _known(tx, host, said)
    own = _within_quota(tx, host, [s for s in said if _is_own(tx, known.get(s.vm), host)], known)
    changes.tell(tx, host, own, known)
    _save_vms(tx, host, own, known)
    repute.greet(tx, host, [status.vm for status in own if status.vm not in known])
    listed = {status.vm for status in own}
    gone = [vm for vm, was in known.items() if was.host == host and vm not in listed and was.state != "absent"]
    changes.tell_gone(tx, host, gone, known, message)
    tx.each(_ABSENT, [{"of_vm": vm} for vm in gone])
    _stretch(tx, {vm: known[vm].paused_ms for vm in resumed(own, known)})
    # By name: among all that ask, a host's own are found by no index.
    readiness.settle(tx, sorted(listed.union(gone)))
    raised = [(s.vm, s.generation) for s in own if s.vm in known and s.generation > known[s.vm].generation]
    guests.forget_outdated(tx, raised)


def host_of(tx: Tx, vm: str) -> str:
    """Name the host that reports a VM; empty where none has."""
    return str(tx.execute(_HOST, {"of_vm": vm}).scalar() or "")


def bye(tx: Tx, host: str, message: HostBye) -> None:
    """Take a host agent's end; its VMs may live on."""
    tx.execute(_BYE, {"of_host": host, "now_ms": tx.now_ms})
    absences.said_bye(tx, host, message.reason)


def paused_since(state: str, before_ms: int, now_ms: int) -> int:
    """Say since when a VM is paused or saved, 0 = it is not.

    A host that cannot tell (``unknown``), or waits for a person's word, as while a disk is missing, changes nothing.
    """
    if state == "unknown" or state in UNDECIDED:
        return before_ms
    return (before_ms or now_ms) if state in PAUSED else 0


def resumed(statuses: Iterable[VmStatus], known: Mapping[str, Reported]) -> list[str]:
    """Name the VMs that were paused or saved and go on: their guests have yet to beat."""
    return [
        status.vm
        for status in statuses
        if status.vm in known and known[status.vm].paused_ms and status.state not in NOT_RUNNING | {"unknown"}
    ]


def _of_a_host(status: VmStatus) -> VmStatus:
    """Take no host's word for what only the centre can tell."""
    is_ours = status.state == VmState.LOST
    return msgspec.structs.replace(status, state=VmState.UNKNOWN) if is_ours else status


def _is_newest(tx: Tx, host: str, at_ms: int) -> bool:
    last_ms = tx.execute(_LAST, {"of_host": host}).scalar() or 0
    return at_ms >= last_ms or at_ms < last_ms - REORDER_MS


def _save_host(tx: Tx, host: str, message: HostInventory) -> None:
    values = {
        "facts": msgspec.msgpack.encode(message.host),
        "reported_ms": message.at_ms,
        "seen_ms": tx.now_ms,
        "beat_ms": tx.lease_now_ms,
        "present": True,
    }
    statement = tx.insert(_hosts).on_conflict_do_update(index_elements=["host"], set_=values)
    tx.execute(statement, {"host": host, **values})


def _known(tx: Tx, host: str, statuses: Sequence[VmStatus]) -> dict[str, Reported]:
    """Read the VMs that the host has, and those that it names; what it once had is not looked at."""
    named = [row for some in portions([s.vm for s in statuses]) for row in tx.execute(_NAMED, {"vms": some})]
    return {row.vm: Reported._make(row) for row in [*tx.execute(_THERE, {"of_host": host}), *named]}


def _is_own(tx: Tx, known: Reported | None, host: str) -> bool:
    own = known is None or known.host in ("", host)
    tx.counts["foreign_vm"] += not own
    return own


def _within_quota(tx: Tx, host: str, own: Sequence[VmStatus], known: Mapping[str, Reported]) -> Sequence[VmStatus]:
    """Leave out the new VMs that are more than the host may have, or that come after too many that are gone again."""
    new = [status.vm for status in own if status.vm not in known]
    if not new:
        return own
    most = tx.policy.vms_of_host
    has_room = tx.execute(_GONE, {"of_host": host}).scalar_one() < GONE_FOR_EACH * most
    room = max(0, most - (len(own) - len(new))) if has_room else 0
    left_out = set(new[room:])
    if left_out:
        tx.counts["too_many_vms"] += len(left_out)
        log.warning("new vms not taken, beyond the quota", extra={"sender": host, "count": len(left_out), "most": most})
    return [status for status in own if status.vm not in left_out]


@cache
def _upsert(is_sqlite: bool) -> Insert:
    statement = insert_into(_vms, is_sqlite)
    new = statement.excluded
    said = ("host", "state", "hypervisor", "pid", "status", "paused_ms", "told_generation", "name", "cpus")
    told = {name: new[name] for name in said}
    is_newer = new.generation > _vms.c.generation
    # What an agent of an earlier boot has said tells nothing about the one that boots now.
    heard = {name: case((is_newer, 0), else_=_vms.c[name]) for name in ("agent_seen_ms", "beat_ms")}
    highest = case((is_newer, new.generation), else_=_vms.c.generation)
    agent = case((is_newer, ""), else_=_vms.c.agent)
    return statement.on_conflict_do_update(
        index_elements=["vm"], set_=told | heard | {"generation": highest, "agent": agent}
    )


def _save_vms(tx: Tx, host: str, statuses: Sequence[VmStatus], known: Mapping[str, Reported]) -> None:
    ordered = sorted(statuses, key=lambda status: status.vm)  # two adapters lock rows in one order
    tx.each(_upsert(tx.is_sqlite), [_row(tx, host, status, known.get(status.vm)) for status in ordered])


def _row(tx: Tx, host: str, status: VmStatus, known: Reported | None) -> dict[str, Any]:
    return {
        "vm": status.vm,
        "host": host,
        "state": status.state,
        "generation": status.generation,
        "hypervisor": status.hypervisor,
        "pid": status.pid,
        "status": msgspec.msgpack.encode(status),
        "paused_ms": paused_since(status.state, known.paused_ms if known else 0, tx.lease_now_ms),
        "told_generation": status.generation,
        "offer": None,
        "agent_seen_ms": 0,
        "agent_since_ms": 0,
        "hello_id": "",
        "name": readable(status.name),
        "cpus": max(0, min(status.cpus, MOST_CPUS)),
    }


def _stretch(tx: Tx, paused_ms: Mapping[str, int]) -> None:
    """Give guests whose VMs go on a lease to beat in, and add the pause to their attempts' terms (see ``terms``)."""
    for some in portions(list(paused_ms)):
        tx.execute(_STRETCH, {"vms": some, "until_ms": tx.lease_now_ms + tx.policy.lease_ms})
    limit = {"most_ms": tx.policy.pause_limit_ms}
    tx.each(_ADD, [{"of_vm": vm, "paused_ms": tx.lease_now_ms - since, **limit} for vm, since in paused_ms.items()])
