"""Calls on snapshots of VMs."""

from __future__ import annotations

from typing import NoReturn

from volcloud.xmlrpc.faults import FaultCode, fault
from volcloud.xmlrpc.method import Generation, Room, method
from volcloud.xmlrpc.names import one_vm


async def take_snapshot(room: Room, vm: str, name: str, desc: str = "") -> bool:
    """Keep a VM's disk and memory as they are under a name. This release has no snapshots."""
    await _refuse(room, vm)


async def restore_snapshot(room: Room, vm: str, name: str = "") -> bool:
    """Bring a VM back to a snapshot, or the newest where none is named. This release has no snapshots."""
    await _refuse(room, vm)


async def delete_snapshot(room: Room, vm: str, name: str) -> bool:
    """Remove a snapshot. This release has no snapshots."""
    await _refuse(room, vm)


async def list_snapshots(room: Room, vm: str) -> list[str]:
    """The names of a VM's snapshots. This release has no snapshots."""
    await _refuse(room, vm)


async def _refuse(room: Room, vm: str) -> NoReturn:
    await one_vm(room.client, vm)
    raise fault(FaultCode.UNSUPPORTED, "this release has no snapshots", "keep one state with saveState")


METHODS = [
    method("saveSnapshot", Generation.FIRST, take_snapshot),
    method("takeSnapshot", Generation.SECOND, take_snapshot),
    method("restoreSnapshot", Generation.BOTH, restore_snapshot),
    method("deleteSnapshot", Generation.SECOND, delete_snapshot),
    method("listSnapshots", Generation.SECOND, list_snapshots),
]
