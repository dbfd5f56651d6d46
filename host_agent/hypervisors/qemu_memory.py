"""A saved guest's memory: written to a file by QEMU, and loaded from it.

The file bears its name only when it is complete and on the disk. Which states that makes is ``qemu``'s to say.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

from host_agent.errors import HypervisorError
from host_agent.hypervisors.qemu_machine import Machine
from host_agent.vm import VmState

#: The file's name in the VM's directory, and while it is being written.
MEMORY = "memory"
MEMORY_BEING_WRITTEN = "memory.tmp"

#: Writing or reading the memory of a large guest on a slow disk.
MEMORY_TIMEOUT_S = 600.0
#: Between two looks at a migration, which takes 0.15 s for a small guest.
_LOOK_INTERVAL_S = 0.02
#: QEMU holds a migration to 128 MiB/s by default, which is meant for networks.
_BYTES_PER_S = 1 << 40


async def write_memory(machine: Machine) -> None:
    """Write a stopped guest's memory; raise HypervisorError, with nothing left behind, if that fails."""
    scratch = machine.home / MEMORY_BEING_WRITTEN
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        await machine.execute("migrate-set-parameters", {"max-bandwidth": _BYTES_PER_S})
        await machine.pass_file(MEMORY, descriptor)
        await machine.execute("migrate", {"uri": f"fd:{MEMORY}"})
        await _wait_written(machine)
        await asyncio.to_thread(os.fsync, descriptor)
        scratch.rename(machine.home / MEMORY)
    finally:
        os.close(descriptor)
        scratch.unlink(missing_ok=True)


async def read_memory(machine: Machine) -> None:
    """Load a saved memory into a QEMU that waits for one; it is paused afterwards."""
    descriptor = os.open(machine.home / MEMORY, os.O_RDONLY)
    try:
        await machine.pass_file(MEMORY, descriptor)
        await machine.execute("migrate-incoming", {"uri": f"fd:{MEMORY}"})
    finally:
        os.close(descriptor)
    state = await _wait_read(machine)
    if state is not VmState.PAUSED:
        raise HypervisorError(f"QEMU could not load the memory: {machine.last_words()}")


async def _wait_written(machine: Machine) -> None:
    for _ in _looks():
        status = (await machine.execute("query-migrate"))["status"]
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise HypervisorError(f"QEMU could not write the memory: {status}")
        await asyncio.sleep(_LOOK_INTERVAL_S)
    raise HypervisorError(f"writing the memory took longer than {MEMORY_TIMEOUT_S} s")


async def _wait_read(machine: Machine) -> VmState:
    for _ in _looks():
        state = await machine.state()
        if state is not VmState.RESTORING:
            return state
        await asyncio.sleep(_LOOK_INTERVAL_S)
    raise HypervisorError(f"loading the memory took longer than {MEMORY_TIMEOUT_S} s")


def _looks() -> Iterator[float]:
    """Yield until the deadline: QEMU announces the end of a migration only to who listened from its start."""
    deadline = time.monotonic() + MEMORY_TIMEOUT_S
    while (now := time.monotonic()) < deadline:
        yield now
