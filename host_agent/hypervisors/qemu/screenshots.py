"""What is to be seen of a guest in QEMU: its screen, and the log of its serial console."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from host_agent.advice import command
from host_agent.errors import HypervisorError, Unsupported
from host_agent.hypervisors.qemu.command import CONSOLE
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.machine import QemuMachine
from host_agent.hypervisors.qemu.monitor import new_set
from host_agent.hypervisors.qemu.vm import QemuVm
from host_agent.vm import Verb
from schemas.looks import MOST_OF_A_SCREEN

#: QEMU draws a large screen in a tenth of this. Whoever asks has given up a second later.
DRAW_S = 3.0


class QemuScreenshots:
    """See the contract. ``find`` gives a VM by its id."""

    def __init__(self, find: Callable[[str], QemuVm], files: QemuFiles) -> None:
        self._find, self._files = find, files

    async def take(self, vm: str) -> bytes:
        """Have QEMU write it into memory that both share: no disk is needed, and none can be full."""
        machine = self._find(vm).running().machine
        devices = await asyncio.to_thread(self._files.devices, vm)
        if not devices.display:
            hint = f"one that is made anew has it: {command(Verb.DELETE, vm)} first"
            raise Unsupported("it was made without a display", hint=hint)
        memory = os.memfd_create(f"screen of {vm}")
        try:
            async with asyncio.timeout(DRAW_S):
                await _draw(machine, memory)
            return await asyncio.to_thread(_read, memory)
        except TimeoutError as error:
            text = f"its QEMU has not drawn the screen within {DRAW_S:g} s: it hangs, or the host is busy"
            raise HypervisorError(f"{text}; ask again, or {command(Verb.POWEROFF, vm)} ends it") from error
        finally:
            os.close(memory)


class QemuLog:
    """See the contract."""

    def __init__(self, files: QemuFiles) -> None:
        self._files = files

    def file(self, vm: str) -> Path:
        """Name the console's log."""
        return self._files.path(vm) / CONSOLE


async def _draw(machine: QemuMachine, memory: int) -> None:
    # QEMU looks among a set's files for one that is opened as it wants to write it: not read.
    descriptor = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)
    files = new_set()
    try:
        await machine.monitor.add_file(files, descriptor)
        await machine.monitor.execute("screendump", {"filename": f"/dev/fdset/{files}", "format": "png"})
    finally:
        os.close(descriptor)
        # It does one after the other: at one that hangs, who asked is not to wait for the other as well.
        machine.tell_later("remove-fd", {"fdset-id": files})


def _read(memory: int) -> bytes:
    size = os.fstat(memory).st_size
    if size > MOST_OF_A_SCREEN:
        raise HypervisorError(f"the picture has {size} bytes; at most {MOST_OF_A_SCREEN} are sent")
    return os.pread(memory, size, 0)
