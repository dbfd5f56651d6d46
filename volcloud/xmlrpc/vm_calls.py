"""Calls that do something with a VM's life: the verbs, and making and removing one."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from schemas.vms import (
    VmCommand,
    VmDelete,
    VmDiscard,
    VmPause,
    VmPoweroff,
    VmReset,
    VmResume,
    VmSavestate,
    VmStart,
    VmState,
    VmStop,
)
from volcloud.client.vms import STOP_S
from volcloud.xmlrpc.faults import FaultCode, fault
from volcloud.xmlrpc.method import Generation, Room, method
from volcloud.xmlrpc.names import one_vm, settled

#: An image of a host's list, by its SHA-256.
_IMAGE = re.compile("[0-9a-f]{64}")


async def start(room: Room, vm: str, gui_mode: bool = False) -> bool:
    """Boot a VM, or let it go on from its saved state. VMs have no window: guiMode must be false."""
    if gui_mode:
        _cannot("guiMode: VMs here have no window", "start it without, and use runCmd")
    return await _done(room, vm, VmStart)


async def power_off(room: Room, vm: str) -> bool:
    """End a VM at once. The first controller pressed the power button; `shutdown` is that."""
    return await _done(room, vm, VmPoweroff)


async def shutdown(room: Room, vm: str) -> bool:
    """Ask the guest to shut down, and wait for it up to a minute; a fault where it runs on."""
    return await _done(room, vm, VmStop, timeout_s=STOP_S)


async def reset(room: Room, vm: str) -> bool:
    """Reboot a VM without asking the guest."""
    return await _done(room, vm, VmReset)


async def pause(room: Room, vm: str) -> bool:
    """Freeze a VM, its memory kept."""
    return await _done(room, vm, VmPause)


async def resume(room: Room, vm: str) -> bool:
    """Let a paused VM go on."""
    return await _done(room, vm, VmResume)


async def save_state(room: Room, vm: str) -> bool:
    """Write a VM's memory to disk and end it; `start` brings it back. The process driver cannot."""
    return await _done(room, vm, VmSavestate)


async def discard_state(room: Room, vm: str) -> bool:
    """Throw a VM's saved state away, so that it boots afresh."""
    row = await one_vm(room.client, vm)
    if row.status.state in (VmState.SET_ASIDE, VmState.MISSING):
        # There the verb would remove its disk, which no caller of the original's means.
        text = f"VM {row.status.name} is {row.status.state}: this call does not remove it"
        raise fault(FaultCode.WRONG_STATE, text, f"see `volcloud vm list`, then `volcloud vm discard {row.status.vm}`")
    return await _done(room, vm, VmDiscard)


async def remove_vm(room: Room, vm: str) -> list[Any]:
    """Remove a VM that does not run, and all that belongs to it: [True, name]. It cannot be undone."""
    row = await one_vm(room.client, vm)
    await _done(room, vm, VmDelete)
    return [True, row.status.name]


async def create_vm(room: Room, name: str, hdd_image_path: str = "", host: str = "") -> list[Any]:
    """Make a VM of 1 cpu, 512 MiB and a disk of 4 GiB, which is not started: [True, name]. Its disk is of an image of
    its host's list: give the image's SHA-256, or nothing for the host's default. A path, or a .vbox file, cannot be
    taken. The host may be left out while there is only one."""
    if name.endswith(".vbox"):
        _cannot(
            "a .vbox file describes a VM of VirtualBox on one machine", "give a name; `volcloud vm create` has sizes"
        )
    if hdd_image_path and not _IMAGE.fullmatch(hdd_image_path):
        text = f"hddImagePath = {hdd_image_path!r}: hosts take images from their owners' lists only, never from a path"
        _cannot(text, "give the SHA-256 of one that `volcloud host list --json` names, or leave it empty")
    status = await room.client.vms.create(name, image=hdd_image_path, host=host)
    await settled(room.client, status.vm, status)
    return [True, status.name]


async def _done(room: Room, vm: str, verb: type[VmCommand], **more: Any) -> bool:
    row = await one_vm(room.client, vm)
    status = await room.client.vms.command(row, verb, **more)
    await settled(room.client, row.status.vm, status)
    return True


def _cannot(text: str, next_step: str) -> NoReturn:
    raise fault(FaultCode.UNSUPPORTED, text, next_step)


METHODS = [
    method("start", Generation.BOTH, start),
    method("powerOff", Generation.BOTH, power_off),
    method("shutdown", Generation.SECOND, shutdown),
    method("reset", Generation.SECOND, reset),
    method("pause", Generation.BOTH, pause),
    method("unpause", Generation.FIRST, resume),
    method("resume", Generation.SECOND, resume),
    method("saveState", Generation.BOTH, save_state),
    method("discardState", Generation.SECOND, discard_state),
    method("createVM", Generation.BOTH, create_vm),
    method("removeVM", Generation.SECOND, remove_vm),
]
