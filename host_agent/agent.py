"""The host agent put together: commands on VMs, the inventory's beats, VMs kept as they are wished to be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from broker.address import read_address
from broker.backoff import backoff
from broker.connection import Connection
from broker.errors import BrokerError
from broker.routes import queue_of
from broker.rpc import Call, Handler, Journal, Responder, ServerClock, Uplink
from host_agent.aside import SetAside
from host_agent.commands import VmCommands
from host_agent.config import HostConfig, WantedVm
from host_agent.control import VmControl
from host_agent.errors import HostError
from host_agent.facts import facts_of
from host_agent.front import Front
from host_agent.guests import Guests
from host_agent.hypervisors.contract import Hypervisor
from host_agent.images import ImageStore
from host_agent.keeper import Keeper
from host_agent.leaving import Leaving
from host_agent.lock import DirectoryLock
from host_agent.making import VmMaking
from host_agent.registry import VmRegistry
from host_agent.seeding import GuestSettings, Seeding
from host_agent.statuses import VmStatuses
from host_agent.vm import Wish
from host_agent.vouching import Vouching
from schemas.enrol import EnrolGrant, EnrolGranted, EnrolRevoke
from schemas.envelope import Done, Failed, Message, Reply, ServerTime
from schemas.errors import SchemaError
from schemas.ids import Kind
from schemas.vms import HostBye, HostInventory, VmCreate, VmState, VmStatus

log = logging.getLogger(__name__)

#: How long the key manager may take for a one-time login, seconds.
GRANT_TIMEOUT_S = 30.0

#: How long the last word may take, seconds: whoever ends the agent waits for it.
BYE_TIMEOUT_S = 2.0

#: How often it is looked whether the directory is still the one that was locked, seconds.
GROUND_S = 2.0

#: Commands taken and not yet journalled. The word about the time comes by the same queue: it must not wait behind them.
PREFETCH = 64


#: How often it is looked which VMs run, to have a road to each, seconds.
GUESTS_S = 2.0


class HostAgent:
    """One host's agent, the only one of its directory. ``run`` until cancelled; its VMs live on."""

    def __init__(self, config: HostConfig, hypervisor: Hypervisor) -> None:
        self._config, self._hypervisor = config, hypervisor
        directory = Path(config.directory)
        address = read_address(Path(config.credential))
        self._me = address.user
        self._lock = DirectoryLock(directory)
        self._clock = ServerClock()
        self._connection = Connection(address, name=address.user)
        self._uplink = Uplink(self._connection, lambda: 0)
        self._journal = Journal(directory / "journal")
        self._registry = VmRegistry(directory / "vms.json")
        self._changed = asyncio.Event()
        #: The VMs that had a process when the agent ended, which it leaves alone.
        self.left_running: list[VmStatus] = []
        self._leaving = Leaving(self._registry, self._revoke)
        self._vouching = Vouching(self._vms, lambda word: self._uplink.say("enrol", word))
        seeding = Seeding(hypervisor, self._registry, address, GuestSettings(config.slots, config.guest), self._grant)
        aside = SetAside(hypervisor, self._registry, seeding)
        images = ImageStore(directory / "images", frozenset(config.images))
        default_image, broker = config.images[0] if config.images else "", Path(config.credential).absolute()
        making = VmMaking(hypervisor, self._registry, aside, images, default_image, broker, self._me)
        self._statuses = VmStatuses(hypervisor, self._registry, aside)
        self._control = VmControl(hypervisor, self._registry, aside, making, seeding, self._statuses)
        self._keeper = Keeper(hypervisor, self._registry, self._control.act)
        self._commands = VmCommands(self._control, self._keeper, self._statuses, self._is_wanted)
        self._responder = Responder(self._connection, self._journal, self._handlers(), clock=self._clock)
        self._control.on_change = self._on_act
        self._statuses.reason = self._keeper.reason
        self._statuses.on_late = self._changed.set
        self._statuses.missing.on_back = self._on_act
        self._guests = Guests(hypervisor, self._me, self._changed.set)
        self._statuses.guest = self._guests.facts
        self._front = Front(directory, self._me, self._guests)

    async def run(self) -> None:
        """Serve until cancelled. VMs of an earlier agent are adopted; wanted ones are made and started.

        Raises DirectoryTaken when another agent works in the directory, or it is another one than it was, in a group.
        """
        self._lock.take()
        try:
            await self.open()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hold_ground(), name="ground")
                await self._serve()
        finally:
            self._lock.release()

    async def _hold_ground(self) -> None:
        """End the agent when its directory is another one. Raises DirectoryTaken."""
        while True:
            self._lock.check()
            await asyncio.sleep(GROUND_S)

    async def _serve(self) -> None:
        self._journal.open()
        try:
            await self._connection.consume(queue_of(self._me), self._responder.on_delivery, prefetch=PREFETCH)
            self._connection.on_up.append(self._on_up)
            self._responder.recover()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._front.run(), name="front")
                group.create_task(self._watch_guests(), name="guests")
                await self._connection.open()
                group.create_task(self._beats(), name="beats")
                group.create_task(self._leaving.run(), name="leaving VMs")
                group.create_task(self._vouching.run(), name="vouching")
                group.create_task(self._make_wanted(), name="wanted VMs")
        finally:
            await self._close()

    async def open(self) -> None:
        """Open the driver and bring registry and hypervisor to agreement; needs no broker."""
        self._registry.load()
        await self._hypervisor.open(self._on_state)
        await self._control.settle()

    async def poweroff_all(self) -> None:
        """End every VM of this host; needs no broker."""
        self._lock.take()
        try:
            await self.open()
            await self._control.poweroff_all()
        finally:
            await self._hypervisor.close()
            self._lock.release()

    async def _close(self) -> None:
        await self._guests.close()
        await self._keeper.close()
        await self._responder.close()
        await self._say_bye()
        self.left_running = [status for status in await self._statuses.all() if status.pid]
        for status in self.left_running:
            log.warning("vm goes on without its agent", extra={"name_of_vm": status.name, "pid": status.pid})
        await self._statuses.close()
        await self._hypervisor.close()
        await self._connection.close()
        await self._journal.close()

    async def _say_bye(self) -> None:
        try:
            if self._connection.is_up:
                async with asyncio.timeout(BYE_TIMEOUT_S):
                    await self._uplink.say("inventory", HostBye(reason="agent stops"))
        except (BrokerError, TimeoutError) as error:
            log.info("bye not delivered", extra={"why": str(error)})

    def _handlers(self) -> dict[type[Message], Handler]:
        centre = frozenset({Kind.ADAPTER, Kind.KEYS})
        return {
            **self._commands.handlers(),
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

    async def _grant(self, vm: str, generation: int) -> EnrolGranted:
        """Get the one-time login of a VM's generation. Raises BrokerError."""
        request = EnrolGrant(vm=vm, target="keys", generation=generation)
        answer = await self._uplink.ask("enrol", request, timeout_s=GRANT_TIMEOUT_S, as_is=True)
        if not isinstance(answer, EnrolGranted):
            raise BrokerError(f"the key manager answered {type(answer).__name__} to a request for a login")
        return answer

    async def _revoke(self, vm: str) -> None:
        """Have a VM's principal and queues deleted. Raises BrokerError until the key manager says that they are."""
        await self._uplink.ask("enrol", EnrolRevoke(vm=vm, target="keys"), timeout_s=GRANT_TIMEOUT_S)

    async def _vms(self) -> tuple[set[str], set[str]]:
        """Name the VMs that are known, missing or not, and those that are here besides, but for those that are to
        go."""
        known = {record.vm for record in self._registry.all()}
        return known, set(await self._hypervisor.list()) - known - set(self._registry.leaving)

    def _on_up(self) -> None:
        """The link is new: this machine may have slept, so what was known of the time is void until told again."""
        self._clock.forget()
        self._changed.set()
        self._vouching.look()

    def _on_act(self, vm: str) -> None:
        """Somebody, or the agent itself, did something to a VM, or tried to."""
        self._changed.set()
        self._leaving.look()
        self._keeper.look_after(vm)

    def _on_state(self, vm: str, state: VmState) -> None:
        """A VM changed by itself: tell the centre, and bring it to what it is wished to be."""
        log.warning("vm changed by itself", extra={"vm": vm, "state": str(state)})
        self._changed.set()
        self._keeper.look_after(vm)

    async def _make_wanted(self) -> None:
        """Have the VMs that the settings name, and those run that shall; what cannot be made now is tried again."""
        self._keeper.keep_all()
        missing = self._config.vms
        for wait_s in backoff(1.0, 300.0):
            missing = [wanted for wanted in missing if not await self._have(wanted)]
            if not missing:
                return
            await asyncio.sleep(wait_s)

    async def _have(self, wanted: WantedVm) -> bool:
        """Make a VM of the settings, and have it kept; False if that failed."""
        order = VmCreate(
            name=wanted.name,
            cpus=wanted.cpus,
            memory_mib=wanted.memory_mib,
            disk_mib=wanted.disk_mib,
            autostart=True,
        )
        try:
            made = await self._control.create(order, wish=Wish.RUNNING)
        except HostError as error:
            log.error("wanted vm not made", extra={"vm": wanted.name, "why": str(error)})
            return False
        self._keeper.keep(made.vm)
        return True

    def _is_wanted(self, name: str) -> bool:
        return any(wanted.name == name for wanted in self._config.vms)

    async def _watch_guests(self) -> None:
        """Have a local road to every VM that runs, with or without a broker."""
        while True:
            try:
                statuses = await self._statuses.all()
                running, unknown = (_in_state(statuses, state) for state in (VmState.RUNNING, VmState.UNKNOWN))
                await self._guests.look(running, unknown)
            except (HostError, OSError) as error:
                log.warning("guests not looked for", extra={"why": str(error)})
            await asyncio.sleep(GUESTS_S)

    async def _beats(self) -> None:
        """Tell the centre what this host and its VMs are: at once when something changed, else every beat."""
        while True:
            self._changed.clear()
            try:
                statuses = await self._statuses.all()
                facts = facts_of(self._config, self._hypervisor, statuses)
                report = HostInventory(host=facts, vms=statuses, at_ms=int(time.time() * 1000))
                await self._uplink.say("inventory", report, persistent=False)
            except (BrokerError, HostError, OSError, SchemaError) as error:
                log.warning("inventory not delivered", extra={"why": str(error)})
            await self._beat_or_change()

    async def _beat_or_change(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.beat_s):
                await self._changed.wait()


def _in_state(statuses: list[VmStatus], state: VmState) -> set[str]:
    return {status.vm for status in statuses if status.state == state}
