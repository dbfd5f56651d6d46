"""What every VM of the host is now, as it is told to the centre and to whoever asked for a verb."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from host_agent.advice import command
from host_agent.aside import SetAside
from host_agent.errors import HostError, UnknownVm
from host_agent.hypervisors.contract import Hypervisor, VmFacts, VmStatistics
from host_agent.looks import PATIENCE_S, Looks
from host_agent.missing import Missing
from host_agent.registry import VmRecord, VmRegistry
from host_agent.vm import Verb
from schemas.codec import clip
from schemas.vms import MOST_OF_A_REASON, MOST_OF_A_WORD, GuestFacts, VmAct, VmState, VmStatus

log = logging.getLogger(__name__)

#: Says why a VM is not what it is wished to be: (id, state); empty where there is nothing to say.
Reason = Callable[[str, VmState], str]


class VmStatuses:
    """See the module. ``on_late`` is called when a VM that was waited for in vain has answered something new."""

    def __init__(self, hypervisor: Hypervisor, registry: VmRegistry, aside: SetAside) -> None:
        self._hypervisor, self._registry, self._aside = hypervisor, registry, aside
        self.missing = Missing(hypervisor)
        self.reason: Reason = lambda vm, state: ""
        #: Gives what a VM's agent has said of it of late.
        self.guest: Callable[[str], GuestFacts | None] = lambda vm: None
        #: Gives what is being done to a VM.
        self.act: Callable[[str], VmAct | None] = lambda vm: None
        self.on_late: Callable[[], None] = lambda: None
        self._looks = Looks(self._look, lambda: self.on_late())
        self._glances = Looks(self._glance, lambda: None)

    async def close(self) -> None:
        """Let go of what is being asked."""
        await self._looks.close()
        await self._glances.close()

    async def one(self, vm: str) -> VmStatus:
        """Say what a VM is now. Raises UnknownVm, HypervisorError."""
        if self._aside.has(vm):
            return await self._aside.status(vm)
        record = self._registry.get(vm)
        state = await self.state(vm)
        if state is VmState.MISSING:
            return self._told(record, state, VmFacts(), VmStatistics(), self.missing.reason(vm))
        statistics = self._hypervisor.capabilities.statistics
        used = await statistics.of(vm) if statistics is not None else VmStatistics()
        return self._told(record, state, await self._hypervisor.facts(vm), used)

    async def state(self, vm: str) -> VmState:
        """Say in what state a VM is: its hypervisor's word, or the agent's own. Raises HypervisorError."""
        if self._aside.has(vm):
            return VmState.SET_ASIDE
        state = await self._hypervisor.state(vm)
        record = self._registry.find(vm)
        return state if record is None else await self.missing.judge(record, state)

    async def all(self) -> list[VmStatus]:
        """Say what every VM is now, those that were set aside too. One that is deleted meanwhile is left out; one that
        cannot be asked in time is as it was, then unknown."""
        known = [record.vm for record in self._registry.all()]
        found = await self._looks.all([*known, *self._aside.ids()], self._unseen)
        return [status for status in found if status is not None]

    async def below(self, vm: str) -> VmState:
        """Say in what state the hypervisor has a VM, also one that was set aside; unknown if it cannot be asked."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._glance(vm)
        except TimeoutError:
            return VmState.UNKNOWN

    async def states(self) -> dict[str, VmState]:
        """Say in what state each known VM is, and nothing else of it: what is asked often. As ``all``, else."""
        known = [record.vm for record in self._registry.all()]
        return dict(zip(known, await self._glances.all(known, lambda vm: VmState.UNKNOWN), strict=True))

    async def _glance(self, vm: str) -> VmState:
        try:
            return await self._hypervisor.state(vm)
        except (HostError, OSError):
            return VmState.UNKNOWN  # whoever looks at all of it says why

    def _told(self, record: VmRecord, state: VmState, facts: VmFacts, used: VmStatistics, reason: str = "") -> VmStatus:
        reason = reason or facts.reason or self.reason(record.vm, state)
        return VmStatus(
            vm=record.vm,
            name=record.name,
            state=state,
            reason=clip(reason, MOST_OF_A_REASON),
            generation=record.generation,
            hypervisor=self._hypervisor.name,
            cpus=record.cpus,
            memory_mib=record.memory_mib,
            disk_mib=record.disk_mib,
            image=record.image,
            pid=facts.pid or 0,
            accelerator=clip(facts.accelerator or "", MOST_OF_A_WORD),
            cpu_seconds=used.cpu_seconds or 0.0,
            resident_bytes=used.resident_bytes or 0,
            autostart=record.autostart,
            guest=self.guest(record.vm),
            act=_with_percent(self.act(record.vm), used.percent_saved),
        )

    async def _look(self, vm: str) -> VmStatus | None:
        try:
            return await self.one(vm)
        except UnknownVm:
            return None
        except (HostError, OSError) as error:
            log.warning("vm cannot be asked", extra={"vm": vm, "why": str(error)})
            return self._unknown(vm, str(error))

    def _unseen(self, vm: str) -> VmStatus | None:
        return self._unknown(vm, "its hypervisor does not answer")

    def _unknown(self, vm: str, why: str) -> VmStatus | None:
        if self._aside.has(vm):
            return self._aside.told(vm, why)
        record = self._registry.find(vm)
        why = f"{why}; {command(Verb.POWEROFF, vm)} ends it"
        return self._told(record, VmState.UNKNOWN, VmFacts(), VmStatistics(), why) if record is not None else None


def _with_percent(act: VmAct | None, percent: int | None) -> VmAct | None:
    return act if act is None or percent is None else msgspec.structs.replace(act, percent=max(0, min(100, percent)))
