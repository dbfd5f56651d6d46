"""What the driver ``process`` can do beside a VM's life."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.daemon.process_stat import read_io, read_stat
from host_agent.errors import naming_disk
from host_agent.hypervisors.contract import VmCounted, VmStatistics
from host_agent.hypervisors.detached import find_tree
from host_agent.hypervisors.lives import counted_by
from host_agent.hypervisors.process.files import ROAD, ProcessFiles
from schemas.looks import VmCounters


class ProcessStatistics:
    """See the contract."""

    def __init__(self, files: ProcessFiles) -> None:
        self._files = files

    async def of(self, vm: str) -> VmStatistics:
        """Sum up all processes of a VM."""
        process = await asyncio.to_thread(self._files.process, vm)
        if process is None or process.stat() is None:
            return VmStatistics()
        tree = await asyncio.to_thread(find_tree, self._files.path(vm), process)
        stats = [stat for pid in tree if (stat := read_stat(pid))]
        return VmStatistics(
            cpu_seconds=sum(stat.cpu_seconds for stat in stats),
            resident_bytes=sum(stat.resident_bytes for stat in stats),
        )

    async def counters(self, vm: str) -> VmCounted:
        """Sum up all processes of a VM. What it exchanges by the host's network nobody counts apart."""
        process = await asyncio.to_thread(self._files.process, vm)
        stat = process.stat() if process is not None else None
        if process is None or stat is None:
            return VmCounted(VmCounters())
        tree = await asyncio.to_thread(find_tree, self._files.path(vm), process)
        stats = [found for pid in tree if (found := read_stat(pid))]
        disk = [io for pid in tree if (io := read_io(pid))]
        counters = VmCounters(
            cpu_seconds=sum(one.cpu_seconds for one in stats),
            resident_bytes=sum(one.resident_bytes for one in stats),
            block_read_bytes=sum(one.read_bytes for one in disk),
            block_write_bytes=sum(one.write_bytes for one in disk),
        )
        return VmCounted(counted_by(process, stat, counters))


class ProcessLog:
    """See the contract: what the guest agent prints."""

    def __init__(self, files: ProcessFiles) -> None:
        self._files = files

    def file(self, vm: str) -> Path:
        """Name its log."""
        return self._files.log_file(vm)


class ProcessSeeds:
    """See the contract: a file, which the guest agent watches."""

    def __init__(self, files: ProcessFiles) -> None:
        self._files = files

    async def offer(self, vm: str, seed: bytes) -> None:
        """Replace the file."""
        self._files.spec(vm)
        with naming_disk(f"cannot seed {vm}"):
            self._files.write_seed(vm, seed)

    def newest(self, vm: str) -> bytes | None:
        """Read the file."""
        return self._files.read_seed(vm)


class ProcessRoads:
    """See the contract: a unix socket that the guest agent makes in its directory."""

    guest_end = f"socket:{ROAD}"

    def __init__(self, files: ProcessFiles) -> None:
        self._files = files

    def socket(self, vm: str) -> Path:
        """Name that socket."""
        return self._files.state_directory(vm) / ROAD
