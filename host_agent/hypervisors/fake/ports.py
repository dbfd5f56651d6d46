"""What the driver in memory can do beside a VM's life."""

from __future__ import annotations

from host_agent.hypervisors.contract import VmStatistics
from host_agent.hypervisors.fake.host import FakeHost
from schemas.vms import VmState


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
