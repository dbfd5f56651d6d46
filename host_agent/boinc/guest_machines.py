"""The virtual machines of a job file: made once each as the client lets them be, and ended together, within the time
that the client leaves us."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from host_agent.boinc.guest_machine import GuestMachine
from host_agent.boinc.guest_needs import GuestNeeds, demand_memory, ports_of
from host_agent.boinc.plan import GuestPlan
from host_agent.boinc.project_images import DEFAULT_IMAGE, disk_mib
from host_agent.errors import HostError
from host_agent.own_centre.lone_host import LoneHost
from schemas.vms import VmCreate

log = logging.getLogger(__name__)

#: The client kills who has not ended a minute after it was told to: so long machines may take to be saved, seconds; and
#: how long what was at work on one that was then killed is waited for.
SAVE_S, LEFT_S = 40.0, 3.0


class GuestMachines:
    """See the module. ``order`` are the names of all, as the job file has them."""

    def __init__(self, host: LoneHost, needs: GuestNeeds, order: Sequence[str]) -> None:
        self._host, self._needs, self._order = host, needs, order
        self._machines: dict[str, GuestMachine] = {}

    @property
    def cpu_s(self) -> float:
        """CPU time of all that is counted nowhere else, seconds."""
        return sum(machine.cpu_s for machine in self._machines.values())

    def processes(self) -> set[int]:
        """Give their processes."""
        return {machine.pid for machine in self._machines.values()} - {0}

    async def have(self, guest: GuestPlan) -> GuestMachine:
        """Give a guest's machine, made if it was not. Raises HostError: also where this computer has no memory for
        it."""
        if guest.name in self._machines:
            return self._machines[guest.name]
        image = await asyncio.to_thread(self._host.images.resolve, guest.image or DEFAULT_IMAGE)
        wanted = VmCreate(
            name=f"machine-{self._order.index(guest.name) + 1}",
            cpus=self._needs.cpus,
            memory_mib=self._needs.memory_mib or guest.memory_mib,
            disk_mib=max(self._needs.disk_mib, disk_mib(image.disk) if image.disk is not None else 0),
            image=guest.image or DEFAULT_IMAGE,
        )
        self._host.ports[wanted.name] = ports_of(guest)
        machine = GuestMachine(self._host, wanted)
        await machine.make()
        if await machine.is_down():  # else it has its memory
            demand_memory(wanted.memory_mib)
        self._machines[guest.name] = machine
        return machine

    async def each(self, how: str, act: Callable[[GuestMachine], Awaitable[None]]) -> None:
        """Do something with every machine that there is, also those that were not looked at; with all at once. What
        does not succeed is told; a machine with which it takes too long is killed."""
        ours = {machine.vm: machine for machine in self._machines.values()}
        records = self._host.registry.all()
        machines = [ours.get(one.vm) or GuestMachine(self._host, VmCreate(name=one.name), one.vm) for one in records]
        await asyncio.gather(*(_within_time(how, act, machine) for machine in machines))


async def _within_time(how: str, act: Callable[[GuestMachine], Awaitable[None]], machine: GuestMachine) -> None:
    task = asyncio.ensure_future(act(machine))
    try:
        await asyncio.wait([task], timeout=SAVE_S)
        if task.done() and task.exception() is None:
            return
        why = f"it takes longer than {SAVE_S:g} s" if not task.done() else str(task.exception() or "")
    finally:
        if not task.done():
            # A hypervisor that hangs, or a slow disk, would hold up the rest; and the client waits no longer.
            machine.kill()
            task.cancel()
            await asyncio.wait([task], timeout=LEFT_S)
    last = ""
    with contextlib.suppress(HostError, OSError):
        last = await machine.checkpoints.last()
    log.error("the virtual machine is not %s: %s; %s stands", how, why, last or "the beginning")
