"""The host agent put together: commands on VMs, the inventory's beats, VMs kept as they are wished to be."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from broker.address import read_address
from broker.connection import Connection
from broker.routes import queue_of
from broker.rpc import Call, Handler, Journal, Responder, ServerClock, Uplink
from host_agent.beats import HostBeats
from host_agent.commands import VmCommands
from host_agent.config import HostConfig
from host_agent.enrolment import Enrolment
from host_agent.facts import AGENT_VERSION
from host_agent.front import Front
from host_agent.house import HouseRules, VmHouse
from host_agent.hypervisors.contract import Hypervisor
from host_agent.images import ImageStore
from host_agent.inputs.inputs import HostInputs
from host_agent.keeper import Keeper
from host_agent.leaving import Leaving
from host_agent.lock import DirectoryLock
from host_agent.questions import VmQuestions
from host_agent.registry import VmRegistry
from host_agent.seeding import BrokerLogins, GuestSettings
from host_agent.vouching import Vouching
from host_agent.wanted import WantedVms
from schemas.enrol import EnrolGranted
from schemas.envelope import Done, Failed, Message, Reply, ServerTime
from schemas.ids import Kind
from schemas.vms import VmState, VmStatus

log = logging.getLogger(__name__)

#: Commands taken and not yet journalled. The word about the time comes by the same queue: it must not wait behind them.
PREFETCH = 64


class HostAgent:
    """One host's agent, the only one of its directory. ``run`` until cancelled; its VMs live on."""

    def __init__(self, config: HostConfig, hypervisor: Hypervisor) -> None:
        directory = Path(config.directory)
        address = read_address(Path(config.credential))
        self._me = address.user
        self._lock = DirectoryLock(directory)
        self._clock = ServerClock()
        self._connection = Connection(address, name=address.user)
        self._uplink = Uplink(self._connection, lambda: 0)
        self._journal = Journal(directory / "journal")
        self._registry = VmRegistry(directory / "vms.json")
        #: The VMs that had a process when the agent ended, which it leaves alone.
        self.left_running: list[VmStatus] = []
        enrolment = Enrolment(self._uplink)
        self._leaving = Leaving(self._registry, enrolment.revoke)
        self._vouching = Vouching(self._vms, enrolment.vouch)
        rules = HouseRules(
            host=self._me,
            broker=Path(config.credential).absolute(),
            guests=GuestSettings(config.slots, config.guest),
            images=ImageStore(directory / "images", frozenset(config.images)),
            default_image=config.images[0] if config.images else "",
            limits=config.limits,
        )
        access = BrokerLogins(hypervisor, address, enrolment.grant)
        self._house = house = VmHouse(directory, hypervisor, self._registry, access, rules)
        self._statuses, self._control, self._guests = house.statuses, house.control, house.guests
        self._keeper = Keeper(hypervisor, self._registry, self._control.act, self._control.is_at_work)
        self._wanted = WantedVms(config.vms, self._control, self._keeper)
        self._commands = VmCommands(self._control, self._keeper, self._statuses, self._wanted.names)
        self._questions = VmQuestions(hypervisor, self._registry, house.aside, self._statuses)
        self._beats = HostBeats(config, hypervisor, self._statuses, self._uplink)
        self._beats.gone = self._control.gone
        self._responder = Responder(
            self._connection, self._journal, self._handlers(), clock=self._clock, version=AGENT_VERSION
        )
        self._control.on_change = self._on_act
        self._statuses.reason = self._keeper.reason
        self._statuses.on_late = self._beats.soon
        self._statuses.missing.on_back = self._on_act
        self._guests.on_change = self._beats.soon
        self._inputs = HostInputs(
            directory / "inputs",
            hypervisor,
            self._connection,
            self._me,
            limit_bytes=config.inputs_mib << 20,
            spare_bytes=config.inputs_spare_mib << 20,
        )
        self._guests.inputs = self._inputs.guests
        self._beats.inputs = self._inputs.facts
        self._front = Front(directory, self._me, self._guests)

    async def run(self) -> None:
        """Serve until cancelled. VMs of an earlier agent are adopted; wanted ones are made and started.

        Raises DirectoryTaken when another agent works in the directory, or it is another one than it was, in a group.
        """
        self._lock.take()
        try:
            await self.open()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lock.hold(), name="ground")
                await self._serve()
        finally:
            self._lock.release()

    async def _serve(self) -> None:
        self._journal.open()
        try:
            await self._connection.consume(queue_of(self._me), self._responder.on_delivery, prefetch=PREFETCH)
            await self._inputs.open()
            self._connection.on_up.append(self._on_up)
            self._responder.recover()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._front.run(), name="front")
                group.create_task(self._guests.watch(self._statuses.states), name="guests")
                await self._connection.open()
                group.create_task(self._beats.run(), name="beats")
                group.create_task(self._leaving.run(), name="leaving VMs")
                group.create_task(self._vouching.run(), name="vouching")
                group.create_task(self._wanted.run(), name="wanted VMs")
        finally:
            await self._close()

    async def open(self) -> None:
        """Open the driver and bring registry and hypervisor to agreement; needs no broker."""
        await self._house.open(self._on_state)

    async def poweroff_all(self) -> None:
        """End every VM of this host; needs no broker."""
        self._lock.take()
        try:
            await self.open()
            await self._control.poweroff_all()
        finally:
            await self._house.hypervisor.close()
            self._lock.release()

    async def _close(self) -> None:
        await self._inputs.close()
        await self._guests.close()
        await self._keeper.close()
        await self._responder.close()
        if self._connection.is_up:
            await self._beats.say_bye()
        self.left_running = [status for status in await self._statuses.all() if status.pid]
        for status in self.left_running:
            log.warning("vm goes on without its agent", extra={"name_of_vm": status.name, "pid": status.pid})
        await self._statuses.close()
        await self._house.hypervisor.close()
        await self._connection.close()
        await self._journal.close()

    def _handlers(self) -> dict[type[Message], Handler]:
        centre = frozenset({Kind.ADAPTER, Kind.KEYS})
        return {
            **self._commands.handlers(),
            **self._questions.handlers(),
            EnrolGranted: Handler(run=self._on_answer, senders=centre),
            Done: Handler(run=self._on_answer, senders=centre),
            Failed: Handler(run=self._on_answer, senders=centre),
            ServerTime: Handler(run=self._on_time, senders=centre),
        }

    async def _on_answer(self, call: Call, message: Reply) -> Reply | None:
        self._uplink.on_answer(message)
        return None

    async def _on_time(self, call: Call, message: ServerTime) -> Reply | None:
        self._clock.learn(message.server_time_ms)
        return None

    async def _vms(self) -> tuple[set[str], set[str]]:
        """Name the VMs that are known, missing or not, and those that are here besides, but for those that are to
        go."""
        known = {record.vm for record in self._registry.all()}
        return known, set(await self._house.hypervisor.list()) - known - set(self._registry.leaving)

    def _on_up(self) -> None:
        """The link is new: this machine may have slept, so what was known of the time is void until told again."""
        self._clock.forget()
        self._beats.soon()
        self._vouching.look()

    def _on_act(self, vm: str) -> None:
        """Somebody, or the agent itself, did something to a VM, or tried to."""
        self._beats.soon()
        self._leaving.look()
        self._keeper.look_after(vm)

    def _on_state(self, vm: str, state: VmState) -> None:
        """A VM changed by itself: tell the centre, and bring it to what it is wished to be."""
        log.warning("vm changed by itself", extra={"vm": vm, "state": str(state)})
        self._beats.soon()
        self._keeper.look_after(vm)
