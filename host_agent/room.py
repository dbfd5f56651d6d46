"""What a host lets its VMs have: how many there may be, their disks, and the cpus and memory of those that run.

A VM counts with its disk from the time that it is made, also with what its saved state and its snapshots take of the
host's disk, and with its cpus and memory for as long as it has a process: also paused, and when its hypervisor does not
say how it is. One that was set aside counts as any other. A host that is over its limits, since they were changed, or
since a guest has written much after a snapshot, keeps what it has; only what would take more is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple

from host_agent.aside import SetAside
from host_agent.config import Limits
from host_agent.errors import HostError, OverLimit
from host_agent.hypervisors.contract import Hypervisor
from host_agent.looks import PATIENCE_S
from host_agent.registry import VmRegistry
from host_agent.statuses import VmStatuses
from host_agent.verbs import Transition, snapshots_of
from schemas.vms import WITHOUT_PROCESS, VmCreate, VmState

log = logging.getLogger(__name__)

#: States in which a VM takes neither cpus nor memory.
_AT_REST = WITHOUT_PROCESS | {VmState.MISSING}
_MIB = 1 << 20


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
        #: What memories that are being written may come to, MiB.
        self._keeping: dict[str, int] = {}
        #: What saved state and snapshots of each VM were said to take last, bytes.
        self._kept: dict[str, int] = {}
        self._looking = asyncio.Lock()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def making(self, wanted: VmCreate) -> AsyncIterator[None]:
        """Let the block make a VM for which there is room. Raises OverLimit; one of that name that there is already
        takes none."""
        size = Size(wanted.cpus, wanted.memory_mib, wanted.disk_mib)
        if self._registry.named(wanted.name) is None:
            kept_mib = await self._kept_mib()
            self._check_makes(size, kept_mib)
            self._making[wanted.name] = size
        try:
            yield
        finally:
            self._making.pop(wanted.name, None)

    def taken_by(self, row: Transition, vm: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Let the block carry out a verb for which there is room. Raises OverLimit."""
        if row.takes_room:
            return self.starting(vm)
        return self.keeping(vm) if row.keeps_memory else contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def keeping(self, vm: str) -> AsyncIterator[None]:
        """Let the block keep a VM's memory on the disk, for which there is room. Raises OverLimit."""
        kept_mib, need = await self._kept_mib(), self._sizes()[vm].memory_mib
        if told := self._told("disk_mib", need, self._disk_mib(kept_mib)):
            raise OverLimit(f"the memory of {vm} is to be kept on the disk: {told}")
        self._keeping[vm] = need
        try:
            yield
        finally:
            del self._keeping[vm]

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

    def _check_makes(self, size: Size, kept_mib: int) -> None:
        """One that could never start is not made either."""
        made = self._made()
        asked = {"cpus": size.cpus, "memory_mib": size.memory_mib, "disk_mib": size.disk_mib, "vms": 1}
        used = {"cpus": 0, "memory_mib": 0, "disk_mib": self._disk_mib(kept_mib), "vms": len(made)}
        self._refuse_over(asked, used)

    def _made(self) -> list[Size]:
        # Noted before it is made: one of a name that is there is not counted twice.
        begun = [size for name, size in self._making.items() if self._registry.named(name) is None]
        return [*self._sizes().values(), *begun]

    def _disk_mib(self, kept_mib: int) -> int:
        return sum(one.disk_mib for one in self._made()) + kept_mib

    async def _kept_mib(self) -> int:
        """Say what saved states and snapshots of all VMs take, also those that were written while we looked. Nobody is
        asked where nothing hangs on it."""
        if self._limits.disk_mib is None or self._hypervisor.capabilities.snapshots is None:
            return 0
        async with self._looking:
            being_kept, sizes = dict(self._keeping), self._sizes()
            asked = [self._kept_bytes(vm, size) for vm, size in sizes.items()]
            self._kept = dict(zip(sizes, await asyncio.gather(*asked), strict=True))
        return -(-sum(self._kept.values()) // _MIB) + sum((being_kept | self._keeping).values())

    async def _kept_bytes(self, vm: str, size: Size) -> int:
        """Ask of one VM. Of one whose hypervisor does not say what it said last counts, or else its whole memory."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await snapshots_of(self._hypervisor).kept_bytes(vm)
        except (TimeoutError, HostError, OSError) as error:
            counted = self._kept.get(vm, size.memory_mib * _MIB)
            log.warning("disk use not told", extra={"vm": vm, "counted_bytes": counted, "why": repr(error)})
            return counted

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
