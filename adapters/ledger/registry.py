"""Pages of hosts and of VMs, as consoles ask for them.

A page has at most as many rows as asked, and is found by an index; whoever wants all asks again from where it ended. A
name or id without a wildcard is looked up; a pattern walks the names, so many rows a page, and a page may then be short
or empty though others follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from sqlalchemy import Row, bindparam, func, select, tuple_

from adapters.ledger import tables
from adapters.ledger.events import readable
from adapters.ledger.guests import is_ready
from adapters.ledger.presence import Presence, presence, presence_in_sql, vm_state_in_sql
from adapters.ledger.transaction import Tx, portions
from schemas.ledger import HostList, HostRow, Hosts, Registry, RegistryList, RegistryRow
from schemas.vms import UNDECIDED, WITHOUT_PROCESS, HostFacts, VmStatus

#: VMs looked at for one page of a pattern that few fit.
MOST_WALKED = 5000
_WILDCARDS = frozenset("*?[")


def is_pattern(words: str) -> bool:
    """Say whether it is to be matched and not looked up."""
    return not _WILDCARDS.isdisjoint(words)


_hosts, _vms, _jobs, _attempts = tables.hosts, tables.vms, tables.jobs, tables.attempts

_HOSTS = select(_hosts).where(_hosts.c.host > bindparam("after")).order_by(_hosts.c.host).limit(bindparam("most"))
_VMS_OF = (
    select(_vms.c.host, func.count())
    .where(tables.IS_THERE, _vms.c.host.in_(bindparam("hosts", expanding=True)))
    .group_by(_vms.c.host)
)
_VMS = select(_vms, _hosts.c.seen_ms).select_from(_vms.outerjoin(_hosts, _hosts.c.host == _vms.c.host))
_NAMES = (
    select(_vms.c.name, _vms.c.vm)
    .where(tables.IS_THERE, tuple_(_vms.c.name, _vms.c.vm) > tuple_(bindparam("name"), bindparam("after")))
    .order_by(_vms.c.name, _vms.c.vm)
    .limit(bindparam("most"))
)
_BY_VM = _VMS.where(_vms.c.vm.in_(bindparam("vms", expanding=True))).order_by(_vms.c.name, _vms.c.vm)
_CALLED = (
    select(_vms.c.name, _vms.c.vm)
    .where(tables.IS_THERE, _vms.c.name == bindparam("name"), _vms.c.vm > bindparam("after"))
    .order_by(_vms.c.vm)
    .limit(bindparam("most"))
)
_WITH_ID = select(_vms.c.name, _vms.c.vm).where(tables.IS_THERE, _vms.c.vm == bindparam("of_vm"))
_HOLDING = (
    select(_attempts.c.vm, _jobs.c.ref)
    .join_from(_attempts, _jobs, _jobs.c.number == _attempts.c.job)
    .where(tables.IS_OPEN, _attempts.c.vm.in_(bindparam("vms", expanding=True)))
    .order_by(_jobs.c.number)
)


def hosts(tx: Tx, message: HostList) -> Hosts:
    """List a page of the hosts that the centre knows, by id."""
    rows = tx.execute(_HOSTS, {"after": message.after, "most": message.limit}).all()
    names = [row.host for row in rows]
    counts = {host: count for some in portions(names) for host, count in tx.execute(_VMS_OF, {"hosts": some})}
    following = names[-1] if len(rows) == message.limit else ""
    return Hosts(call=message.id, hosts=[host_row(tx, row, counts.get(row.host, 0)) for row in rows], next=following)


def host_row(tx: Tx, row: Row[Any], vms: int) -> HostRow:
    """Give a host of this row, with so many VMs."""
    there = presence(is_present=row.present, beat_ms=row.beat_ms, lease_now_ms=tx.lease_now_ms, policy=tx.policy)
    return HostRow(
        host=row.host,
        facts=msgspec.msgpack.decode(row.facts, type=HostFacts),
        seen_ms=row.seen_ms,
        present=there in (Presence.PRESENT, Presence.LATE),
        vms=vms,
        presence=there,
    )


def vms(tx: Tx, message: RegistryList) -> Registry:
    """List a page of the VMs whose name, or id, fits the pattern; those that a host no longer has are left out."""
    found, following = _walk(tx, message) if is_pattern(message.pattern) else _called(tx, message)
    return Registry(call=message.id, vms=vm_rows(tx, found), next=following)


def shorter(page: Hosts | Registry) -> Hosts | Registry:
    """Cut a page that does not fit a message in half; a row that does not fit alone loses its details."""
    replace = msgspec.structs.replace
    if isinstance(page, Hosts):
        kept = page.hosts[: (len(page.hosts) + 1) // 2]
        if len(page.hosts) > 1:
            return replace(page, hosts=kept, next=kept[-1].host)
        return replace(page, hosts=[replace(row, facts=_plain(row.facts)) for row in kept])
    rows = page.vms[: (len(page.vms) + 1) // 2]
    if len(page.vms) > 1:
        return replace(page, vms=rows, next=f"{readable(rows[-1].status.name)}/{rows[-1].status.vm}")
    return replace(page, vms=[replace(row, status=_bare(row.status), jobs=[]) for row in rows])


def _plain(facts: HostFacts) -> HostFacts:
    return msgspec.structs.replace(facts, hostname=readable(facts.hostname)[:100], images=[])


def _bare(status: VmStatus) -> VmStatus:
    bare = {field: getattr(status, field) for field in ("vm", "state", "generation", "cpus", "memory_mib", "disk_mib")}
    return VmStatus(**bare, name=readable(status.name)[:100], hypervisor="", reason="too long to be shown")


def _called(tx: Tx, message: RegistryList) -> tuple[list[str], str]:
    """Find the VMs of exactly this name, and the one of this id first."""
    _, after = _place(message.after)
    named = tx.execute(_CALLED, {"name": message.pattern, "after": after, "most": message.limit}).all()
    own = [] if message.after else list(tx.execute(_WITH_ID, {"of_vm": message.pattern}).all())
    following = _cursor(named[-1]) if len(named) == message.limit else ""
    return [row.vm for row in [*own, *named]], following


def _walk(tx: Tx, message: RegistryList) -> tuple[list[str], str]:
    """Walk the names from where the page before ended; give the ids that fit, and where to go on (empty: the end)."""
    fitting: list[str] = []
    name, after = _place(message.after)
    for _ in range(max(1, MOST_WALKED // message.limit)):
        page = tx.execute(_NAMES, {"name": name, "after": after, "most": message.limit}).all()
        for row in page:
            if fnmatchcase(row.name, message.pattern) or fnmatchcase(row.vm, message.pattern):
                fitting.append(row.vm)
            if len(fitting) == message.limit:
                return fitting, _cursor(row)
        if len(page) < message.limit:
            return fitting, ""
        name, after = page[-1]
    return fitting, f"{name}/{after}"


def _place(cursor: str) -> tuple[str, str]:
    name, _, vm = cursor.rpartition("/")  # no id holds a slash; a name may
    return name, vm


def _cursor(row: Row[Any]) -> str:
    return f"{row.name}/{row.vm}"


def vm_rows(tx: Tx, ids: Sequence[str]) -> list[RegistryRow]:
    """Give these VMs, by name."""
    holding: defaultdict[str, list[str]] = defaultdict(list)
    for some in portions(ids):
        for vm, ref in tx.execute(_HOLDING, {"vms": some}):
            holding[vm].append(ref)
    state, there = vm_state_in_sql(tx).label("state_now"), presence_in_sql(tx).label("there")
    statement = _BY_VM.add_columns(state, there)
    rows: Iterable[Row[Any]] = [row for some in portions(ids) for row in tx.execute(statement, {"vms": some})]
    return [_vm_row(tx, row, holding[row.vm]) for row in rows]


def _vm_row(tx: Tx, row: Row[Any], holding: list[str]) -> RegistryRow:
    status = msgspec.msgpack.decode(row.status, type=VmStatus) if row.status else _unreported(row)
    return RegistryRow(
        host=row.host,
        status=msgspec.structs.replace(status, state=row.state_now),
        seen_ms=row.seen_ms or row.agent_seen_ms,
        agent_ready=_is_ready(tx, row),
        agent_since_ms=row.agent_since_ms,
        jobs=holding,
        host_presence=row.there if row.seen_ms is not None else "",
    )


def _is_ready(tx: Tx, row: Row[Any]) -> bool:
    speaks = row.beat_ms > 0 and is_ready(row.beat_ms, tx.lease_now_ms, tx.policy)
    return speaks and row.state_now not in UNDECIDED | WITHOUT_PROCESS


def _unreported(row: Row[Any]) -> VmStatus:
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
