"""What the driver in memory can do beside a VM's life."""

from __future__ import annotations

import time

from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import VmCounted, VmStatistics
from host_agent.hypervisors.fake.host import FakeHost
from schemas.looks import VmCounters
from schemas.vms import VmSnapshot, VmState

#: The smallest PNG: one grey point of one bit, black.
_BLACK = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010100000000376ef9240000000a4944415478da6360000000"
    "020001e527defc0000000049454e44ae426082"
)


class FakeSnapshots:
    """See the contract."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def savestate(self, vm: str) -> None:
        """Save and end."""
        self._host.rest(vm, VmState.SAVED)

    async def discard(self, vm: str) -> None:
        """Throw away a saved state."""
        if vm in self._host.vms and self._host.vm(vm).state is VmState.SAVED:
            self._host.rest(vm, VmState.POWEREDOFF)

    async def take(self, vm: str, name: str) -> None:
        """Remember how the VM is: its disk and memory are nothing else."""
        found = self._host.vm(vm)
        if name in found.snapshots or found.pid is None:
            raise HypervisorError(f"VM {vm} does not run, or has a snapshot {name}")
        found.snapshots[name] = VmSnapshot(name=name, taken_ms=time.time_ns() // 1_000_000, state=found.state)

    async def restore(self, vm: str, name: str, seed: bytes) -> None:
        """Be again what it was then, as another process, ``seed`` offered."""
        found = self._host.vm(vm)
        if name not in found.snapshots:
            raise HypervisorError(f"VM {vm} has no snapshot {name}")
        found.seeds.append(seed)
        found.state, found.pid = found.snapshots[name].state, next(self._host.pids)

    async def delete(self, vm: str, name: str) -> None:
        """Forget it."""
        self._host.vm(vm).snapshots.pop(name, None)

    async def list(self, vm: str) -> list[VmSnapshot]:
        """List them: dictionaries keep the order."""
        return list(self._host.vm(vm).snapshots.values())

    async def kept_bytes(self, vm: str) -> int:
        """As much as its memory for each."""
        found = self._host.vm(vm)
        return (len(found.snapshots) + (found.state is VmState.SAVED)) * (found.spec.memory_mib << 20)


class FakeStatistics:
    """See the contract."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def of(self, vm: str) -> VmStatistics:
        """Invent those of a VM that runs."""
        found = self._host.vms.get(vm)
        if found is None or found.pid is None:
            return VmStatistics()
        return VmStatistics(cpu_seconds=0.0, resident_bytes=0)

    async def counters(self, vm: str) -> VmCounted:
        """Invent those of a VM that runs: a life is a process."""
        found = self._host.vms.get(vm)
        if found is None or found.pid is None:
            return VmCounted(VmCounters(disk_bytes=0))
        return VmCounted(
            VmCounters(
                life=str(found.pid),
                cpu_seconds=0.0,
                resident_bytes=0,
                disk_bytes=0,
                block_read_bytes=0,
                block_write_bytes=0,
                block_read_requests=0,
                block_write_requests=0,
                net_rx_bytes=0,
                net_tx_bytes=0,
                net_rx_packets=0,
                net_tx_packets=0,
            )
        )


class FakeScreenshots:
    """See the contract: a picture of one black point."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def take(self, vm: str) -> bytes:
        """Give it, of a VM that runs."""
        if self._host.vm(vm).pid is None:
            raise HypervisorError(f"VM {vm} does not run")
        return _BLACK


class FakeSeeds:
    """See the contract."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def offer(self, vm: str, seed: bytes) -> None:
        """Keep one more."""
        self._host.vm(vm).seeds.append(seed)

    def newest(self, vm: str) -> bytes | None:
        """Give the last one."""
        seeds = self._host.vm(vm).seeds
        return seeds[-1] if seeds else None
