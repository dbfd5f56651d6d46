"""What is new in a host's report of its VMs, as events: a VM was made, is in another state or boot, or is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, select

from adapters.ledger import tables
from adapters.ledger.readiness import SPEAKS
from adapters.ledger.transaction import Tx, portions
from schemas.events import Event, EventKind
from schemas.vms import HostInventory, VmActed, VmState, VmStatus

_vms = tables.vms

_STATUSES = select(_vms.c.vm, _vms.c.status).where(_vms.c.vm.in_(bindparam("vms", expanding=True)))
_GONE = select(_vms.c.vm, _vms.c.name, _vms.c.generation).where(_vms.c.vm.in_(bindparam("vms", expanding=True)))


class Reported(NamedTuple):
    """A VM as its host reported it last."""

    vm: str
    host: str
    state: str
    generation: int
    paused_ms: int
    told_generation: int = 0
    agent: str = ""


def tell(tx: Tx, host: str, own: Sequence[VmStatus], known: Mapping[str, Reported]) -> None:
    """Tell how these VMs differ from what is known of them. Call it before their rows are written anew."""
    changed = [(status, was) for status in own if _differs(status, was := known.get(status.vm))]
    acted = _acted(tx, [status.vm for status, was in changed if was is not None])
    for status, was in changed:
        verb, by = _whose(status, acted.get(status.vm))
        tx.tell(
            Event(
                event=_kind(status, was),
                host=host,
                vm=status.vm,
                name=status.name,
                generation=status.generation,
                was=was.state if was is not None and was.host else "",
                state=status.state,
                why=status.reason,
                verb=verb,
                by=by,
            ),
        )
        if was is not None and not was.host and was.agent == SPEAKS:
            # Its guest was faster than its host, and was nobody's until now.
            ready = EventKind.AGENT_READY
            tx.tell(
                Event(event=ready, host=host, vm=status.vm, name=status.name, generation=was.generation, state=SPEAKS)
            )


def tell_gone(tx: Tx, host: str, gone: Sequence[str], known: Mapping[str, Reported], message: HostInventory) -> None:
    """Tell of VMs that the host lists no more, and who had them removed if it says so."""
    by = {one.vm: one.by for one in message.gone}
    for some in portions(gone):
        for vm, name, generation in tx.execute(_GONE, {"vms": some}):
            tx.tell(
                Event(
                    event=EventKind.DELETED,
                    host=host,
                    vm=vm,
                    name=name,
                    generation=generation,
                    was=known[vm].state,
                    state=VmState.ABSENT,
                    verb="delete" if vm in by else "",
                    by=by.get(vm, ""),
                ),
            )


def _differs(status: VmStatus, was: Reported | None) -> bool:
    if was is None or not was.host or was.state != status.state:
        return True
    return status.state == VmState.RUNNING and was.told_generation < status.generation


def _kind(status: VmStatus, was: Reported | None) -> EventKind:
    if status.state == VmState.SET_ASIDE:
        return EventKind.SET_ASIDE
    return EventKind.MADE if was is None or not was.host or was.state == VmState.ABSENT else EventKind.STATE


def _acted(tx: Tx, vms: Sequence[str]) -> dict[str, VmActed | None]:
    """Give what was known to be done last to each VM."""
    rows = [row for some in portions(vms) for row in tx.execute(_STATUSES, {"vms": some})]
    return {row.vm: msgspec.msgpack.decode(row.status, type=VmStatus).acted for row in rows if row.status}


def _whose(status: VmStatus, before: VmActed | None) -> tuple[str, str]:
    """Name the verb that is at work, or has ended since the last report, and who asked for it."""
    if status.act is not None:
        return status.act.verb, status.act.by
    if status.acted is not None and status.acted != before:
        return status.acted.verb, status.acted.by
    return "", ""
