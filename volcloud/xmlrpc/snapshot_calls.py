"""Calls on snapshots of VMs: disk and memory together, under a name."""

from __future__ import annotations

from schemas.ledger import RegistryRow
from volcloud.xmlrpc.faults import FaultCode, fault
from volcloud.xmlrpc.method import Generation, Room, method
from volcloud.xmlrpc.names import one_vm, settled


async def take_snapshot(room: Room, vm: str, name: str, desc: str = "") -> bool:
    """Keep disk and memory of a VM that runs or is paused under a name; it is as it was after. desc is not kept: no
    call gives it back."""
    row = await one_vm(room.client, vm)
    status = await room.client.vms.take_snapshot(row.status.vm, name)
    await settled(room.client, row.status.vm, status)
    return True


async def restore_snapshot(room: Room, vm: str, name: str = "") -> bool:
    """Bring a VM back to a snapshot, or to the newest where none is named; what came after it is lost."""
    row = await one_vm(room.client, vm)
    status = await room.client.vms.restore_snapshot(row.status.vm, await _found(room, row, name))
    await settled(room.client, row.status.vm, status)
    return True


async def delete_snapshot(room: Room, vm: str, name: str) -> bool:
    """Remove a snapshot; the VM stays as it is. A fault where there is none of that name."""
    row = await one_vm(room.client, vm)
    if not name:
        raise fault(FaultCode.BAD_ARGUMENT, "deleteSnapshot: name is empty", "listSnapshots has the names")
    await room.client.vms.delete_snapshot(row.status.vm, await _found(room, row, name))
    return True


async def list_snapshots(room: Room, vm: str) -> list[str]:
    """The names of a VM's snapshots, the oldest first."""
    row = await one_vm(room.client, vm)
    return [one.name for one in await room.client.vms.snapshots(row.status.vm)]


async def _found(room: Room, row: RegistryRow, name: str) -> str:
    """Give the name of a snapshot that there is, the newest one's for none. Raises Fault."""
    known = await list_snapshots(room, row.status.vm)
    if not known or (name and name not in known):
        meant = f"snapshot {name[:100]!r}" if name else "snapshot"
        text = f"VM {row.status.name} has no {meant}: it has {', '.join(known) or 'none'}"
        raise fault(FaultCode.NO_SUCH_SNAPSHOT, text, "saveSnapshot or takeSnapshot takes one")
    return name or known[-1]


METHODS = [
    method("saveSnapshot", Generation.FIRST, take_snapshot),
    method("takeSnapshot", Generation.SECOND, take_snapshot),
    method("restoreSnapshot", Generation.BOTH, restore_snapshot),
    method("deleteSnapshot", Generation.SECOND, delete_snapshot),
    method("listSnapshots", Generation.SECOND, list_snapshots),
]
