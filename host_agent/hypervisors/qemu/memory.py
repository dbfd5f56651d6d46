"""A saved guest's memory: written to a file by QEMU, and loaded from it.

The file bears its name only when it is complete and on the disk. Which states that makes is ``snapshots``'s to say.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec

from broker import durable
from host_agent.errors import HostDiskFull, HypervisorError
from host_agent.hypervisors.qemu.machine import QemuMachine
from host_agent.hypervisors.qemu.monitor import last_words
from schemas.vms import VmState

#: The file's name in the VM's directory; while it is being written; once it is loaded, until the guest goes on; and
#: from then on.
MEMORY = "memory"
MEMORY_BEING_WRITTEN = "memory.tmp"
MEMORY_LOADED = "memory.loaded"
MEMORY_USED = "memory.used"

#: Writing or reading the memory of a large guest on a slow disk.
MEMORY_TIMEOUT_S = 600.0
#: Between two looks at a migration, seconds, and as a part of the time that it has taken: 0.1 s for a small guest.
_LEAST_LOOK_S, _MOST_LOOK_S, _LOOK_PART = 0.002, 0.1, 0.1
#: A disk with less is full for our purposes: file systems keep some back.
LEAST_ROOM_BYTES = 16 * 1024 * 1024
#: QEMU's words for a migration that has not ended.
_UNDER_WAY = frozenset({"setup", "active", "cancelling", "device", "pre-switchover", "wait-unplug"})
#: QEMU holds a migration to 128 MiB/s by default, which is meant for networks.
_BYTES_PER_S = 1 << 40


class Ram(msgspec.Struct):
    """Bytes of a memory that is written."""

    total: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] = 0
    remaining: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] = 0


class Migration(msgspec.Struct, rename="kebab"):
    """What ``query-migrate`` answers."""

    status: str = ""
    ram: Ram = msgspec.field(default_factory=Ram)
    error_desc: str = ""


async def write_memory(machine: QemuMachine) -> None:
    """Write a stopped guest's memory; raise HypervisorError or OSError, with nothing left behind, if that fails.

    QEMU is then to be told to go back, see ``give_up_writing``.
    """
    scratch = machine.home / MEMORY_BEING_WRITTEN
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        await machine.monitor.execute("migrate-set-parameters", {"max-bandwidth": _BYTES_PER_S})
        await machine.monitor.pass_file(MEMORY, descriptor)
        await machine.monitor.execute("migrate", {"uri": f"fd:{MEMORY}"})
        with durable.naming(scratch):
            await _written(machine, descriptor)
        scratch.rename(machine.home / MEMORY)
        durable.sync_directory(machine.home)
    finally:
        machine.percent_written = None
        os.close(descriptor)
        scratch.unlink(missing_ok=True)


async def give_up_writing(machine: QemuMachine, *, runs_on: bool) -> None:
    """Bring a QEMU back that was told to write its memory, whole or in part, and is to keep it. Raises HypervisorError.

    It refuses to write again until it has run, if only for a moment.
    """
    await machine.monitor.execute("migrate_cancel")
    async for _ in _looks():
        if (await machine.monitor.ask("query-migrate", Migration)).status not in _UNDER_WAY:
            break
    has_written = await machine.run_state() == "postmigrate"
    if runs_on or has_written:
        await machine.monitor.execute("cont")
    if not runs_on and has_written:
        await machine.monitor.execute("stop")


async def read_memory(machine: QemuMachine) -> None:
    """Load a saved memory into a QEMU that waits for one; it is paused afterwards."""
    descriptor = os.open(machine.home / MEMORY, os.O_RDONLY)
    try:
        await machine.monitor.pass_file(MEMORY, descriptor)
        await machine.monitor.execute("migrate-incoming", {"uri": f"fd:{MEMORY}"})
    finally:
        os.close(descriptor)
    state = await _wait_read(machine)
    if state is not VmState.PAUSED:
        raise HypervisorError(f"QEMU could not load the memory: {last_words(machine.home)}")


async def _written(machine: QemuMachine, descriptor: int) -> None:
    """Wait until all of it is on the disk, which is kept at it from the first page on: little is left for the end."""
    is_whole = asyncio.Event()
    sync = asyncio.create_task(_sync_until(is_whole, descriptor))
    try:
        await _wait_written(machine)
    finally:
        is_whole.set()
        await asyncio.wait([sync])
    await sync


async def _sync_until(is_whole: asyncio.Event, descriptor: int) -> None:
    """Sync again and again, and once more. An error is told to one call and to none after it: the first one ends it."""
    while not is_whole.is_set():
        await asyncio.to_thread(os.fdatasync, descriptor)
        await asyncio.sleep(_LEAST_LOOK_S)
    await asyncio.to_thread(os.fsync, descriptor)


async def _wait_written(machine: QemuMachine) -> None:
    async for _ in _looks():
        found = await machine.monitor.ask("query-migrate", Migration)
        if found.status == "completed":
            return
        machine.percent_written = percent_of(found)
        if found.status in ("failed", "cancelled"):
            raise _not_written(machine, found)
    raise HypervisorError(f"writing the memory took longer than {MEMORY_TIMEOUT_S} s")


def percent_of(found: Migration) -> int | None:
    """Say how much of a memory is written, as ``query-migrate`` tells; None where it does not."""
    total, left = found.ram.total, found.ram.remaining
    return round(100 * (total - left) / total) if total > 0 else None


def _not_written(machine: QemuMachine, found: Migration) -> HypervisorError:
    """Say why the memory could not be written. QEMU says little, so the disk is asked."""
    why = found.error_desc or found.status
    scratch = machine.home / MEMORY_BEING_WRITTEN
    if shutil.disk_usage(machine.home).free < LEAST_ROOM_BYTES:
        advice = "free some space there, then again; the VM goes on as it was"
        return HostDiskFull(f"{scratch}: {os.strerror(errno.ENOSPC)}; {advice}")
    return HypervisorError(f"{scratch}: QEMU could not write the memory: {why}")


async def _wait_read(machine: QemuMachine) -> VmState:
    async for _ in _looks():
        state = await machine.state()
        if state is not VmState.RESTORING:
            return state
    raise HypervisorError(f"loading the memory took longer than {MEMORY_TIMEOUT_S} s")


async def _looks() -> AsyncIterator[None]:
    """Yield until the deadline: QEMU announces the end of a migration only to who listened from its start."""
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < MEMORY_TIMEOUT_S:
        yield
        # A QEMU that is at it answers late, which is a pause too.
        answered_s = time.monotonic() - began - elapsed_s
        pause_s = min(max(_LOOK_PART * elapsed_s, _LEAST_LOOK_S), _MOST_LOOK_S)
        await asyncio.sleep(max(0.0, pause_s - answered_s))
