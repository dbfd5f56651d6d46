"""The host agent put together: commands on VMs, the inventory's beats, VMs kept running as wanted."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
import time
from pathlib import Path

from broker.address import read_address
from broker.backoff import backoff
from broker.connection import Connection
from broker.errors import BrokerError
from broker.routes import queue_of
from broker.rpc import Call, Handler, Journal, Responder, ServerClock, Uplink
from host_agent.config import HostConfig, WantedVm
from host_agent.control import GuestSettings, VmControl
from host_agent.errors import HostError
from host_agent.hypervisors.contract import Hypervisor
from host_agent.images import ImageStore
from host_agent.registry import VmRegistry
from host_agent.vm import Verb, VmState
from schemas.enrol import EnrolGrant, EnrolGranted, EnrolRevoke
from schemas.envelope import Done, Failed, Message, Reply, ServerTime
from schemas.vms import (
    HostBye,
    HostFacts,
    HostInventory,
    VmCommand,
    VmCreate,
    VmDelete,
    VmList,
    VmPause,
    VmPoweroff,
    VmReset,
    VmResume,
    Vms,
    VmSavestate,
    VmStart,
    VmStatus,
    VmStop,
)

log = logging.getLogger(__name__)

AGENT_VERSION = "0.1.0"
#: How long the key manager may take for a one-time login, seconds.
GRANT_TIMEOUT_S = 30.0

#: Commands taken and not yet journalled. The word about the time comes by the same queue: it must not wait behind them.
PREFETCH = 64

VERBS: dict[type[VmCommand], Verb] = {
    VmStart: Verb.START,
    VmPause: Verb.PAUSE,
    VmResume: Verb.RESUME,
    VmReset: Verb.RESET,
    VmPoweroff: Verb.POWEROFF,
    VmSavestate: Verb.SAVESTATE,
    VmStop: Verb.STOP,
}


class HostAgent:
    """One host's agent. ``run`` until cancelled; its VMs live on."""

    def __init__(self, config: HostConfig, hypervisor: Hypervisor) -> None:
        self._config, self._hypervisor = config, hypervisor
        directory = Path(config.directory)
        address = read_address(Path(config.credential))
        self._me = address.user
        self._clock = ServerClock()
        self._connection = Connection(address, name=address.user)
        self._uplink = Uplink(self._connection, lambda: 0)
        self._journal = Journal(directory / "journal")
        self._registry = VmRegistry(directory / "vms.json")
        self._responder = Responder(self._connection, self._journal, self._handlers(), clock=self._clock)
        self._changed = asyncio.Event()
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self.control = VmControl(
            hypervisor,
            self._registry,
            ImageStore(directory / "images", frozenset(config.images)),
            config.images[0] if config.images else "",
            address,
            GuestSettings(config.slots, config.guest),
            self._grant,
            self._revoke,
        )

    async def run(self) -> None:
        """Serve until cancelled. VMs of an earlier agent are adopted; wanted ones are made and started."""
        await self.open()
        self._journal.open()
        try:
            await self._connection.consume(queue_of(self._me), self._responder.on_delivery, prefetch=PREFETCH)
            self._connection.on_up.append(self._on_up)
            self._responder.recover()
            await self._connection.open()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beats(), name="beats")
                group.create_task(self._make_wanted(), name="wanted VMs")
        finally:
            await self._close()

    async def open(self) -> None:
        """Open the driver and bring registry and hypervisor to agreement; needs no broker."""
        self._registry.load()
        await self._hypervisor.open(self._on_state)
        await self.control.settle()

    async def poweroff_all(self) -> None:
        """End every VM of this host; needs no broker."""
        await self.open()
        await self.control.poweroff_all()
        await self._hypervisor.close()

    async def _close(self) -> None:
        for task in list(self._keeping.values()):
            task.cancel()
        await self._responder.close()
        await self._say_bye()
        await self._hypervisor.close()
        await self._connection.close()
        await self._journal.close()

    async def _say_bye(self) -> None:
        try:
            if self._connection.is_up:
                await asyncio.wait_for(self._uplink.say("inventory", HostBye(reason="agent stops")), 2.0)
        except (BrokerError, TimeoutError) as error:
            log.info("bye not delivered", extra={"why": str(error)})

    def _handlers(self) -> dict[type[Message], Handler]:
        centre = frozenset({"adapter", "keys"})
        verbs: dict[type[Message], Handler] = {
            kind: Handler(run=self._verb, repeatable=kind is not VmReset) for kind in VERBS
        }
        return {
            **verbs,
            VmCreate: Handler(run=self._create, repeatable=True),
            VmDelete: Handler(run=self._delete, repeatable=True),
            VmList: Handler(run=self._list),
            EnrolGranted: Handler(run=self._on_answer, senders=centre),
            Done: Handler(run=self._on_answer, senders=centre),
            Failed: Handler(run=self._on_answer, senders=centre),
            ServerTime: Handler(run=self._on_time, senders=centre),
        }

    async def _verb(self, call: Call, message: VmCommand) -> Reply:
        await call.started()
        timeout_s = message.timeout_s if isinstance(message, VmStop) else 60.0
        status = await self.control.act(VERBS[type(message)], message.vm, timeout_s=timeout_s)
        self._changed.set()
        return Vms(call=message.id, vms=[status])

    async def _create(self, call: Call, message: VmCreate) -> Reply:
        await call.started()
        status = await self.control.create(message)
        self._changed.set()
        return Vms(call=message.id, vms=[status])

    async def _delete(self, call: Call, message: VmDelete) -> Reply:
        await call.started()
        await self.control.delete(message.vm)
        self._changed.set()
        return Done(call=message.id)

    async def _list(self, call: Call, message: VmList) -> Reply:
        return Vms(call=message.id, vms=await self.control.statuses())

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
        await self._uplink.say("enrol", EnrolRevoke(vm=vm, target="keys"))

    def _on_up(self) -> None:
        """The link is new: this machine may have slept, so what was known of the time is void until told again."""
        self._clock.forget()
        self._changed.set()

    def _on_state(self, vm: str, state: VmState) -> None:
        """A VM changed by itself: tell the centre; one that is to be kept running is started again."""
        log.info("vm state", extra={"vm": vm, "state": str(state)})
        self._changed.set()
        if state is VmState.ABORTED and any(r.vm == vm and r.autostart for r in self._registry.all()):
            self._keep(vm)

    def _keep(self, vm: str) -> None:
        if vm not in self._keeping:
            self._keeping[vm] = asyncio.ensure_future(self._start_again(vm))
            self._keeping[vm].add_done_callback(lambda _: self._keeping.pop(vm, None))

    async def _start_again(self, vm: str) -> None:
        """Start a VM until it runs, or until someone else has decided about it."""
        for wait_s in backoff(0.2, 30.0):
            try:
                if await self._hypervisor.state(vm) not in (VmState.ABORTED, VmState.POWEREDOFF):
                    return
                await self.control.act(Verb.START, vm)
                self._changed.set()
                return
            except (HostError, BrokerError) as error:
                log.warning("start failed, again soon", extra={"vm": vm, "why": str(error)})
                await asyncio.sleep(wait_s)

    async def _make_wanted(self) -> None:
        """Have the VMs that the settings name; every one whose state allows it runs."""
        for wanted in self._config.vms:
            await self._have(wanted)
        for record in self._registry.all():
            if record.autostart:
                self._keep(record.vm)

    async def _have(self, wanted: WantedVm) -> None:
        try:
            await self.control.create(
                VmCreate(
                    name=wanted.name,
                    cpus=wanted.cpus,
                    memory_mib=wanted.memory_mib,
                    disk_mib=wanted.disk_mib,
                    autostart=True,
                )
            )
        except HostError as error:
            log.error("wanted vm not made", extra={"vm": wanted.name, "why": str(error)})

    async def _beats(self) -> None:
        """Tell the centre what this host and its VMs are: at once when something changed, else every beat."""
        while True:
            self._changed.clear()
            try:
                statuses = await self.control.statuses()
                report = HostInventory(host=self._facts(statuses), vms=statuses, at_ms=int(time.time() * 1000))
                await self._uplink.say("inventory", report, persistent=False)
            except (BrokerError, HostError, OSError) as error:
                log.warning("inventory not delivered", extra={"why": str(error)})
            await self._beat_or_change()

    async def _beat_or_change(self) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), self._config.beat_s)
        except TimeoutError:
            return

    def _facts(self, statuses: list[VmStatus]) -> HostFacts:
        return HostFacts(
            hostname=platform.node(),
            platform=f"{platform.system().lower()}-{platform.machine()}",
            cpus=os.cpu_count() or 1,
            memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            free_disk_mib=shutil.disk_usage(self._config.directory).free >> 20,
            hypervisor=self._hypervisor.name,
            accelerator=next((status.accelerator for status in statuses if status.accelerator), ""),
            agent_version=AGENT_VERSION,
            isolates=self._hypervisor.capabilities.isolates,
            images=self._config.images,
        )
