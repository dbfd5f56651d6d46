"""What a VM uses of the host, read off its QEMU, its disk and the relays of its network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.process_stat import ProcessStat
from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import COUNTERS_S, VmCounted, VmStatistics
from host_agent.hypervisors.lives import counted_by
from host_agent.hypervisors.qemu.command import DISK, OVERLAY
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.machine import QemuMachine
from host_agent.hypervisors.qemu.relays import carried
from host_agent.hypervisors.qemu.vm import QemuVm
from schemas.looks import VmCounters

#: The kernel counts a file's blocks so, bytes.
_BLOCK_BYTES = 512

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class _Counted(msgspec.Struct):
    """What QEMU has counted of a disk."""

    rd_bytes: _Count | None = None
    wr_bytes: _Count | None = None
    rd_operations: _Count | None = None
    wr_operations: _Count | None = None


class _BlockDevice(msgspec.Struct, rename="kebab"):
    """One of what ``query-blockstats`` answers."""

    stats: _Counted
    node_name: str = ""


class _Balloon(msgspec.Struct):
    """What ``query-balloon`` answers."""

    actual: _Count


class QemuStatistics:
    """See the contract. ``find`` gives a VM by its id."""

    def __init__(self, find: Callable[[str], QemuVm], files: QemuFiles) -> None:
        self._find, self._files = find, files

    async def of(self, vm: str) -> VmStatistics:
        """Read them off the process, and how far its memory is from what QEMU said last."""
        _, stat = await asyncio.to_thread(self._process, vm)
        if stat is None:
            return VmStatistics()
        life = self._find(vm).life
        return VmStatistics(
            cpu_seconds=stat.cpu_seconds,
            resident_bytes=stat.resident_bytes,
            percent_saved=life.machine.percent_written if life is not None and life.has_machine else None,
        )

    async def counters(self, vm: str) -> VmCounted:
        """Read them off the process, its files, and QEMU, which may hang; a disk that hangs holds up this one only."""
        process, stat = await asyncio.to_thread(self._process, vm)
        counters = await asyncio.to_thread(self._on_disk, vm, is_live=stat is not None)
        if process is None or stat is None:
            return VmCounted(counters)
        counters = msgspec.structs.replace(
            counted_by(process, stat, counters), cpu_seconds=stat.cpu_seconds, resident_bytes=stat.resident_bytes
        )
        life = self._find(vm).life
        if life is None or not life.has_machine:
            return VmCounted(counters, "this agent is not at its QEMU yet")
        try:
            async with asyncio.timeout(COUNTERS_S):
                return VmCounted(msgspec.structs.replace(counters, **await _asked(life.machine)))
        except TimeoutError:
            return VmCounted(counters, f"its QEMU does not answer within {COUNTERS_S} s")
        except HypervisorError as error:
            return VmCounted(counters, str(error))

    def _process(self, vm: str) -> tuple[ProcessIdentity | None, ProcessStat | None]:
        process = self._files.process(vm)
        return process, process.stat() if process is not None else None

    def _on_disk(self, vm: str, *, is_live: bool) -> VmCounters:
        home = self._files.path(vm)
        net = carried(home, self._files.command(vm)) if is_live else None
        return VmCounters(
            disk_bytes=_taken(home / OVERLAY),
            net_rx_bytes=net.to_guest if net is not None else None,
            net_tx_bytes=net.from_guest if net is not None else None,
        )


def _taken(path: Path) -> int | None:
    try:
        return path.stat().st_blocks * _BLOCK_BYTES
    except OSError:
        return None


async def _asked(machine: QemuMachine) -> dict[str, int | None]:
    """Ask QEMU for the counters of the VM's disk, and for the balloon if there is one."""
    devices = await machine.monitor.ask("query-blockstats", list[_BlockDevice])
    disk = next((one.stats for one in devices if one.node_name == DISK), _Counted())
    return {
        "block_read_bytes": disk.rd_bytes,
        "block_write_bytes": disk.wr_bytes,
        "block_read_requests": disk.rd_operations,
        "block_write_requests": disk.wr_operations,
        "balloon_bytes": await _balloon(machine),
    }


async def _balloon(machine: QemuMachine) -> int | None:
    try:
        return (await machine.monitor.ask("query-balloon", _Balloon)).actual
    except HypervisorError:
        return None  # QEMU's word for a machine that has none, as ours
