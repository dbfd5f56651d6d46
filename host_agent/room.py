"""What a host lets its VMs have: how many there may be, their disks, and the cpus and memory of those that run.

A VM counts with its disk from the time that it is made, and with its cpus and memory for as long as it has a process:
also paused, and when its hypervisor does not say how it is. One that was set aside counts as any other. A host that is
over its limits, since they were changed, keeps what it has; only what would take more is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple

from host_agent.aside import SetAside
from host_agent.config import Limits
from host_agent.errors import OverLimit
from host_agent.hypervisors.contract import Hypervisor
from host_agent.registry import VmRegistry
from host_agent.statuses import VmStatuses
from schemas.vms import VmCreate, VmState

#: States in which a VM takes neither cpus nor memory.
_AT_REST = frozenset({VmState.POWEREDOFF, VmState.ABORTED, VmState.SAVED, VmState.ABSENT, VmState.MISSING})


class Size(NamedTuple):
    """What a VM is made for."""

    cpus: int
    memory_mib: int
    disk_mib: int


class HostRoom:
    """See the module. What is being made or started counts as if it were already."""

    def __init__(
        self, limits: Limits, hypervisor: Hypervisor, registry: VmRegistry, aside: SetAside, statuses: VmStatuses
    ) -> None:
        self._limits, self._hypervisor = limits, hypervisor
        self._registry, self._aside, self._statuses = registry, aside, statuses
        self._making: dict[str, Size] = {}
        self._starting: set[str] = set()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def making(self, wanted: VmCreate) -> AsyncIterator[None]:
        """Let the block make a VM for which there is room. Raises OverLimit; one of that name that there is already
        takes none."""
        size = Size(wanted.cpus, wanted.memory_mib, wanted.disk_mib)
        if self._registry.named(wanted.name) is None:
            self._check_makes(size)
            self._making[wanted.name] = size
        try:
            yield
        finally:
            self._making.pop(wanted.name, None)

    @contextlib.asynccontextmanager
    async def starting(self, vm: str) -> AsyncIterator[None]:
        """Let the block start a VM for which there is room. Raises OverLimit."""
        if self._limits.cpus is None and self._limits.memory_mib is None:
            yield  # nobody is asked, and waits for nobody
            return
        async with self._turn:
            await self._check_starts(vm)
            self._starting.add(vm)
        try:
            yield
        finally:
            self._starting.discard(vm)

    async def _check_starts(self, vm: str) -> None:
        """One that runs has its share already."""
        size, running = self._sizes()[vm], await self._running()
        if vm not in running:
            used = list(running.values())
            asked = {"cpus": size.cpus, "memory_mib": size.memory_mib}
            self._refuse_over(asked, {"cpus": sum(s.cpus for s in used), "memory_mib": sum(s.memory_mib for s in used)})

    def _check_makes(self, size: Size) -> None:
        """One that could never start is not made either."""
        # Noted before it is made: one of a name that is there is not counted twice.
        begun = [size for name, size in self._making.items() if self._registry.named(name) is None]
        made = [*self._sizes().values(), *begun]
        asked = {"cpus": size.cpus, "memory_mib": size.memory_mib, "disk_mib": size.disk_mib, "vms": 1}
        used = {"cpus": 0, "memory_mib": 0, "disk_mib": sum(one.disk_mib for one in made), "vms": len(made)}
        self._refuse_over(asked, used)

    def _refuse_over(self, asked: Mapping[str, int], used: Mapping[str, int]) -> None:
        over = [told for field, wanted in asked.items() if (told := self._told(field, wanted, used[field]))]
        if over:
            raise OverLimit("; ".join(over))

    def _told(self, field: str, wanted: int, used: int) -> str:
        """Say by how much a field is over its limit; empty if it is not."""
        limit: int | None = getattr(self._limits, field)
        if limit is None or used + wanted <= limit:
            return ""
        return f"{field} = {wanted}: this host has {max(0, limit - used)} left of {limit}"

    def _sizes(self) -> dict[str, Size]:
        """What every VM is made for that is known to be here. Of one whose files cannot be read nobody can tell."""
        known = {one.vm: Size(one.cpus, one.memory_mib, one.disk_mib) for one in self._registry.all()}
        return known | dict(self._set_aside())

    def _set_aside(self) -> Iterable[tuple[str, Size]]:
        for vm in self._aside.ids():
            spec = self._aside.spec(vm)
            if spec is not None:
                yield vm, Size(spec.cpus, spec.memory_mib, spec.disk_mib)

    async def _running(self) -> dict[str, Size]:
        """Ask anew how each is: what was seen a moment ago may be of before a start that has just ended."""
        # A start may end while others are asked: it counts as it was before.
        sizes, starting = self._sizes(), set(self._starting)
        asked = [vm for vm in sizes if vm not in starting]
        states = dict(zip(asked, await asyncio.gather(*map(self._statuses.below, asked)), strict=True))
        return {vm: size for vm, size in sizes.items() if vm in starting or states[vm] not in _AT_REST}
