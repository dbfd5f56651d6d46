"""One file at a time for a guest: the medium in a drive that each VM has and that can only be read.

What lies in it is no part of a saved memory, so one that is saved meanwhile goes on with an empty drive.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from host_agent.errors import HypervisorError
from host_agent.hypervisors.qemu.command import INPUT_DRIVE, INPUT_MODEL
from host_agent.hypervisors.qemu.monitor import Monitor, new_set
from host_agent.hypervisors.qemu.vm import QemuVm
from schemas.inputs import Medium

#: QEMU's name of what lies in the drive.
_NODE = "input"

#: A guest may move the tray of its drive as it likes: so often it is opened again.
_TRIES = 5


class QemuInputs:
    """See the contract. ``find`` gives a VM by its id."""

    #: A drive's sector; QEMU leaves out what of a file does not fill one.
    kind, unit_bytes = Medium.DISK, 2048

    def __init__(self, find: Callable[[str], QemuVm]) -> None:
        self._find = find

    async def insert(self, vm: str, file: Path) -> str:
        """Put it into the drive."""
        monitor = self._find(vm).running().machine.monitor
        await self.eject(vm)
        await _join(monitor, file)
        try:
            await _at_open_tray(monitor, "blockdev-insert-medium", {"node-name": _NODE})
        except BaseException:
            with contextlib.suppress(HypervisorError):
                await self._empty(monitor)
            raise
        return INPUT_MODEL

    async def eject(self, vm: str) -> None:
        """Empty the drive, also while the guest reads."""
        await self._empty(self._find(vm).running().machine.monitor)

    async def _empty(self, monitor: Monitor) -> None:
        await _at_open_tray(monitor, "blockdev-remove-medium", {})
        with contextlib.suppress(HypervisorError):  # there was none
            await monitor.execute("blockdev-del", {"node-name": _NODE})


async def _at_open_tray(monitor: Monitor, command: str, more: dict[str, str]) -> None:
    """Do it to the drive while its tray is open, and close that. Raises HypervisorError."""
    for left in reversed(range(_TRIES)):
        await monitor.execute("blockdev-open-tray", {"id": INPUT_DRIVE, "force": True})
        try:
            await monitor.execute(command, {"id": INPUT_DRIVE, **more})
            break
        except HypervisorError:  # a guest that boots may have closed the tray in between
            if not left:
                raise
    await monitor.execute("blockdev-close-tray", {"id": INPUT_DRIVE})


async def _join(monitor: Monitor, file: Path) -> None:
    """Join a file to QEMU, which is handed it open: it may neither go where that lies nor read anything else there."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HypervisorError(f"{file} cannot be shown: {error.strerror or error}") from error
    files = new_set()
    try:
        await monitor.add_file(files, descriptor)
    finally:
        os.close(descriptor)
    source = {"driver": "file", "filename": f"/dev/fdset/{files}", "read-only": True}
    try:
        await monitor.execute("blockdev-add", {"node-name": _NODE, "driver": "raw", "read-only": True, "file": source})
    finally:
        # What was joined stays open.
        await monitor.execute("remove-fd", {"fdset-id": files})
