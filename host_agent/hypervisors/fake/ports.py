"""What the driver in memory can do beside a VM's life."""

from __future__ import annotations

import time

from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import VmStatistics
from host_agent.hypervisors.fake.host import FakeHost
from schemas.vms import VmSnapshot, VmState


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
