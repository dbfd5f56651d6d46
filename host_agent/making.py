"""Making VMs: what is asked for becomes a record and a VM, or neither; a name stands for one VM of the host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from host_agent.aside import SetAside
from host_agent.errors import IllegalVerb, ImageError, naming_disk
from host_agent.hypervisors.contract import GuestPorts, Hypervisor, ImageFiles, ImageSource, VmSpec
from host_agent.registry import VmRecord, VmRegistry
from host_agent.vm import Wish
from schemas.ids import new_vm
from schemas.vms import VmCreate

log = logging.getLogger(__name__)


class VmMaking:
    """See the module."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        registry: VmRegistry,
        aside: SetAside,
        images: ImageSource,
        default_image: str,
        broker: Path | None,
        host: str,
        ports_of: Callable[[str], GuestPorts] = lambda name: GuestPorts(),
    ) -> None:
        """``host`` is whose VMs they are: its name is in theirs. ``broker`` None: there is none.
        ``ports_of`` says of a VM's name what of its guest is reached from this host."""
        self._hypervisor, self._registry, self._aside = hypervisor, registry, aside
        self._images, self._default_image = images, default_image
        self._broker, self._host, self._ports_of = broker, host, ports_of

    async def make(self, wanted: VmCreate, wish: Wish) -> str:
        """Make a VM, powered off, and give its id. The same name with the same size again succeeds.

        Raises HostError; nothing is left then. Not for two of one name at a time.
        """
        known = self._registry.named(wanted.name)
        if known is not None:
            return _same(known, wanted)
        aside = self._aside.named(wanted.name)
        if aside is not None:
            raise IllegalVerb(f"name = {wanted.name!r}: such a VM was set aside, {aside}; adopt or discard it first")
        record = self._record(wanted, wish)
        image = await self._image(record.image)
        with naming_disk(f"cannot make {wanted.name}"):
            # The record first: a VM without one would be set aside by the next agent. A record that says that it was
            # not made is dropped where there is no VM.
            self._registry.put(record)
            try:
                await self._hypervisor.create(self._spec(record, image))
            except BaseException:
                self._registry.unmake(record.vm)
                raise
        self._registry.note_made(record.vm, is_made=True)
        log.info("vm made", extra={"vm": record.vm, "name_of_vm": record.name})
        return record.vm

    def _record(self, wanted: VmCreate, wish: Wish) -> VmRecord:
        return VmRecord(
            vm=new_vm(self._host),
            name=wanted.name,
            cpus=wanted.cpus,
            memory_mib=wanted.memory_mib,
            disk_mib=wanted.disk_mib,
            image=wanted.image or self._default_image,
            autostart=wanted.autostart,
            wish=wish,
            is_made=False,
        )

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
            broker=str(self._broker) if self._broker is not None else "",
            ports=self._ports_of(record.name),
        )


def _same(known: VmRecord, wanted: VmCreate) -> str:
    size = (known.cpus, known.memory_mib, known.disk_mib)
    if size != (wanted.cpus, wanted.memory_mib, wanted.disk_mib):
        raise IllegalVerb(
            f"name = {wanted.name!r}: there is such a VM with cpus, memory_mib, disk_mib = {size}; delete it first"
        )
    return known.vm
