"""Verbs on VMs: legal or refused, repeated ones succeed, one at a time a VM, the state told after each.

Here lives what is the same for every hypervisor; the drivers do the acts. A verb that boots or restores raises the
generation first and hands in a fresh one-time login.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable

from broker.address import Address
from host_agent.errors import HostError, HypervisorError, IllegalVerb, ImageError, Unsupported
from host_agent.hypervisors.contract import Hypervisor, ImageFiles, VmFacts, VmSpec
from host_agent.images import ImageStore
from host_agent.registry import NoSuchVm, VmRecord, VmRegistry
from host_agent.vm import TRANSITIONS, Verb, VmState, is_done, is_legal
from schemas.enrol import EnrolGranted
from schemas.ids import unguessable
from schemas.seed import Seed, encode_seed
from schemas.vms import VmCreate, VmStatus

log = logging.getLogger(__name__)

#: Asks the key manager for the one-time login of a VM's generation.
Grant = Callable[[str, int], Awaitable[EnrolGranted]]
#: Asks the key manager to delete a VM's principal and queues.
Revoke = Callable[[str], Awaitable[None]]


class GuestSettings:
    """What every guest of this host is told beside who it is."""

    def __init__(self, slots: int, settings: dict[str, float]) -> None:
        self.slots, self.settings = slots, settings


class VmControl:
    """See the module."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        registry: VmRegistry,
        images: ImageStore,
        default_image: str,
        broker: Address,
        guests: GuestSettings,
        grant: Grant,
        revoke: Revoke,
    ) -> None:
        self._hypervisor, self._registry, self._images = hypervisor, registry, images
        self._default_image = default_image
        self._broker, self._guests = broker, guests
        self._grant, self._revoke = grant, revoke
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def settle(self) -> None:
        """After the driver was opened: forget VMs that were never made, remove those that nobody knows."""
        made = set(await self._hypervisor.list())
        for record in self._registry.all():
            if record.vm not in made:
                log.warning("vm gone, forgotten", extra={"vm": record.vm, "name_of_vm": record.name})
                self._registry.remove(record.vm)
        for vm in made - {record.vm for record in self._registry.all()}:
            log.warning("leftover vm removed", extra={"vm": vm})
            await self._hypervisor.poweroff(vm)
            await self._hypervisor.delete(vm)

    async def create(self, wanted: VmCreate) -> VmStatus:
        """Make a VM, powered off. The same name with the same size again succeeds. Raises HostError; nothing is left
        then."""
        known = self._registry.named(wanted.name)
        if known is not None:
            return await self._same(known, wanted)
        record = VmRecord(
            vm=unguessable("vm"),
            name=wanted.name,
            cpus=wanted.cpus,
            memory_mib=wanted.memory_mib,
            disk_mib=wanted.disk_mib,
            image=wanted.image or self._default_image,
            autostart=wanted.autostart,
        )
        image = await self._image(record.image)
        self._registry.put(record)
        try:
            await self._hypervisor.create(self._spec(record, image))
        except HostError:
            self._registry.remove(record.vm)
            raise
        return await self.status(record.vm)

    async def act(self, verb: Verb, vm: str, *, timeout_s: float = 60.0) -> VmStatus:
        """Carry out a verb and give the state seen after it.

        Raises NoSuchVm, IllegalVerb (both states named), Unsupported, HypervisorError.
        """
        record = self._registry.get(vm)
        async with self._locks[vm]:
            state = await self._hypervisor.state(vm)
            if not is_done(verb, state):
                self._check(verb, record, state)
                await self._carry_out(verb, vm, timeout_s)
            return await self.status(vm)

    async def delete(self, vm: str) -> None:
        """Remove a VM, its files, its principal and its queues. One that is not there is no error."""
        if all(record.vm != vm for record in self._registry.all()):
            return
        async with self._locks[vm]:
            self._check(Verb.DELETE, self._registry.get(vm), await self._hypervisor.state(vm))
            await self._hypervisor.delete(vm)
            await self._revoke(vm)
            self._registry.remove(vm)

    async def poweroff_all(self) -> None:
        """End every VM; they are kept."""
        for vm in await self._hypervisor.list():
            await self._hypervisor.poweroff(vm)

    async def status(self, vm: str) -> VmStatus:
        """Say what a VM is now. Raises NoSuchVm."""
        record = self._registry.get(vm)
        facts = await self._hypervisor.facts(vm)
        return self._told(record, await self._hypervisor.state(vm), facts)

    def _told(self, record: VmRecord, state: VmState, facts: VmFacts, reason: str = "") -> VmStatus:
        return VmStatus(
            vm=record.vm,
            name=record.name,
            state=state,
            reason=reason[:1000],
            generation=record.generation,
            hypervisor=self._hypervisor.name,
            cpus=record.cpus,
            memory_mib=record.memory_mib,
            disk_mib=record.disk_mib,
            image=record.image,
            pid=facts.pid or 0,
            accelerator=facts.accelerator or "",
            cpu_seconds=facts.cpu_seconds or 0.0,
            resident_bytes=facts.resident_bytes or 0,
            autostart=record.autostart,
        )

    async def statuses(self) -> list[VmStatus]:
        """Say what every VM is now. One that is deleted meanwhile is left out; one that cannot be asked is unknown."""
        found = [await self._status_or_unknown(record) for record in self._registry.all()]
        return [status for status in found if status is not None]

    async def _status_or_unknown(self, record: VmRecord) -> VmStatus | None:
        try:
            return await self.status(record.vm)
        except NoSuchVm:
            return None
        except HypervisorError as error:
            log.warning("vm cannot be asked", extra={"vm": record.vm, "why": str(error)})
            return self._told(record, VmState.UNKNOWN, VmFacts(), str(error))

    def _check(self, verb: Verb, record: VmRecord, state: VmState) -> None:
        if verb not in self._hypervisor.capabilities.verbs:
            notes = self._hypervisor.capabilities.notes
            raise Unsupported(f"{verb}: the {self._hypervisor.name} driver cannot do that; {notes}".rstrip("; "))
        if not is_legal(verb, state):
            allowed = ", ".join(sorted(TRANSITIONS[verb].legal_from))
            raise IllegalVerb(f"{record.name} is {state}: {verb} is allowed from {allowed}")

    async def _carry_out(self, verb: Verb, vm: str, timeout_s: float) -> None:
        driver = self._hypervisor
        match verb:
            case Verb.START:
                await driver.start(vm, await self._next_seed(vm))
            case Verb.RESET:
                await driver.reset(vm, await self._next_seed(vm))
            case Verb.STOP:
                await driver.stop(vm, timeout_s)
            case Verb.PAUSE:
                await driver.pause(vm)
            case Verb.RESUME:
                await driver.resume(vm)
            case Verb.POWEROFF:
                await driver.poweroff(vm)
            case Verb.SAVESTATE:
                await driver.savestate(vm)
            case Verb.CREATE | Verb.DELETE:
                raise IllegalVerb(f"{verb} has a command of its own")

    async def _next_seed(self, vm: str) -> bytes:
        """Raise the generation and get what the guest needs to come back as it."""
        record = self._registry.raise_generation(vm)
        granted = await self._grant(vm, record.generation)
        host, port = self._hypervisor.broker_for_guest(self._broker.host, self._broker.port)
        return encode_seed(
            Seed(
                vm=vm,
                name=record.name,
                generation=record.generation,
                broker_host=host,
                broker_port=port,
                vhost=self._broker.vhost,
                login_user=granted.user,
                login_password=granted.password,
                slots=self._guests.slots or record.cpus,
                settings=self._guests.settings,
            )
        )

    async def _same(self, known: VmRecord, wanted: VmCreate) -> VmStatus:
        size = (known.cpus, known.memory_mib, known.disk_mib)
        if size != (wanted.cpus, wanted.memory_mib, wanted.disk_mib):
            raise IllegalVerb(
                f"name = {wanted.name!r}: there is such a VM with cpus, memory_mib, disk_mib = {size}; delete it first"
            )
        return await self.status(known.vm)

    async def _image(self, image: str) -> ImageFiles | None:
        if not self._hypervisor.capabilities.needs_image:
            return None
        if not image:
            raise ImageError("image is not given and this host has no default; put an id into `images` of its settings")
        return await asyncio.to_thread(self._images.resolve, image)

    def _spec(self, record: VmRecord, image: ImageFiles | None) -> VmSpec:
        return VmSpec(
            id=record.vm,
            name=record.name,
            cpus=record.cpus,
            memory_mib=record.memory_mib,
            disk_mib=record.disk_mib,
            image=image,
            broker_host=self._broker.host,
            broker_port=self._broker.port,
        )
