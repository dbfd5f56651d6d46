"""VMs that the hypervisor has and the registry does not know: set aside, shown, and never touched by themselves.

A registry that was lost, or brought back from an older copy, must not cost a disk. A person takes such a VM back in
(``adopt``) or has it removed (``discard``); until then it may run on, or be powered off, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from host_agent.errors import IllegalVerb, naming_disk
from host_agent.hypervisors.contract import Hypervisor, VmSpec
from host_agent.registry import NoSuchVm, VmRecord, VmRegistry
from host_agent.seeding import Seeding
from host_agent.vm import VmState, Wish
from schemas.codec import clip
from schemas.vms import MOST_OF_A_NAME, MOST_OF_A_REASON, VmStatus

log = logging.getLogger(__name__)

#: States in which there is no process to end.
_AT_REST = frozenset({VmState.POWEREDOFF, VmState.ABORTED, VmState.SAVED, VmState.ABSENT})


class SetAside:
    """The VMs that were set aside since the driver was opened."""

    def __init__(self, hypervisor: Hypervisor, registry: VmRegistry, seeding: Seeding) -> None:
        self._hypervisor, self._registry, self._seeding = hypervisor, registry, seeding
        self._specs: dict[str, VmSpec] = {}

    def put(self, vms: Iterable[str]) -> None:
        """Set VMs aside, in place of those that were."""
        self._specs = {vm: self._hypervisor.spec(vm) for vm in vms}
        for vm, spec in self._specs.items():
            log.error("unknown vm set aside", extra={"vm": vm, "name_of_vm": spec.name, "next": _advice(spec.name)})

    def has(self, vm: str) -> bool:
        """Say whether a VM is set aside."""
        return vm in self._specs

    def ids(self) -> list[str]:
        """Name the VMs that are set aside."""
        return list(self._specs)

    def named(self, name: str) -> str | None:
        """Give the id of one of that name, or None."""
        return next((vm for vm, spec in self._specs.items() if spec.name == name), None)

    async def status(self, vm: str) -> VmStatus:
        """Show one. Raises NoSuchVm."""
        spec = self._specs.get(vm)
        if spec is None:
            raise NoSuchVm(f"vm = {vm!r}: this host has no such VM")
        state = await self._hypervisor.state(vm)
        return VmStatus(
            vm=vm,
            name=clip(spec.name, MOST_OF_A_NAME),
            state=VmState.SET_ASIDE,
            reason=clip(f"{state}; this host's agent does not know it: {_advice(spec.name)}", MOST_OF_A_REASON),
            generation=self._seeding.told_generation(vm),
            hypervisor=self._hypervisor.name,
            cpus=spec.cpus,
            memory_mib=spec.memory_mib,
            disk_mib=spec.disk_mib,
            image=spec.image.id if spec.image else "",
        )

    async def adopt(self, vm: str, *, autostart: bool) -> None:
        """Take one into the registry, durably, as it is. Raises IllegalVerb when its name is another's.

        One that was adopted already is no error.
        """
        spec = self._specs.get(vm)
        if spec is None:
            return
        other = self._registry.named(spec.name)
        if other is not None:
            raise IllegalVerb(
                f"{spec.name} is the name of another VM too, {other.vm}: delete that first, or discard {vm}"
            )
        is_live = await self._hypervisor.state(vm) not in _AT_REST
        with naming_disk(f"cannot adopt {spec.name}"):
            self._registry.put(self._record(spec, is_live=is_live, autostart=autostart))
        del self._specs[vm]
        log.info("vm adopted", extra={"vm": vm, "name_of_vm": spec.name})

    async def discard(self, vm: str) -> None:
        """End one and remove all that belongs to it; its principal is revoked as a deleted VM's is."""
        await self._hypervisor.poweroff(vm)
        await self._hypervisor.delete(vm)
        with naming_disk(f"cannot forget {vm}"):
            self._registry.remove(vm)
        self._specs.pop(vm, None)
        log.info("vm discarded", extra={"vm": vm})

    def _record(self, spec: VmSpec, *, is_live: bool, autostart: bool) -> VmRecord:
        return VmRecord(
            vm=spec.id,
            name=spec.name,
            cpus=spec.cpus,
            memory_mib=spec.memory_mib,
            disk_mib=spec.disk_mib,
            image=spec.image.id if spec.image else "",
            generation=self._seeding.told_generation(spec.id),
            autostart=autostart,
            wish=Wish.RUNNING if is_live else Wish.OFF,
        )


def _advice(name: str) -> str:
    return f"`volcloud vm adopt {name}` takes it back, `volcloud vm discard {name}` removes it with its disk"
