"""VMs that the hypervisor has and the registry does not know: set aside, shown, and never touched by themselves.

A registry that was lost, or brought back from an older copy, must not cost a disk. A person takes such a VM back in
(``adopt``) or has it removed (``discard``); until then it may run on, or be powered off, and nothing else. Nobody
vouches for it meanwhile, so that its login does not outlive all who knew it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from broker.errors import BrokerError
from host_agent.advice import command
from host_agent.errors import HypervisorError, IllegalVerb, UnknownVm, Unsupported, naming_disk
from host_agent.hypervisors.contract import Hypervisor, VmSpec
from host_agent.registry import VmRecord, VmRegistry
from host_agent.seeding import Seeding
from host_agent.vm import Verb, Wish
from schemas.codec import clip
from schemas.enrol import SILENT_DAYS
from schemas.vms import MOST_OF_A_NAME, MOST_OF_A_REASON, WITHOUT_PROCESS, VmState, VmStatus

log = logging.getLogger(__name__)


class FoundVm(msgspec.Struct, frozen=True, kw_only=True):
    """What the hypervisor has of a VM that was set aside."""

    vm: str
    #: None where it cannot be read.
    spec: VmSpec | None = None
    #: Why it cannot be read.
    flaw: str = ""

    @property
    def name(self) -> str:
        """Its name, or its id where the name cannot be read."""
        return self.spec.name if self.spec is not None else self.vm

    @property
    def advice(self) -> str:
        """Say what a person can do about it."""
        back = f"{command(Verb.ADOPT, self.vm)} takes it back"
        gone = f"{command(Verb.DISCARD, self.vm)} removes it with its disk"
        return f"{back}, {gone}" if self.spec is not None else f"{gone}; once that is mended, {back}"


class SetAside:
    """The VMs that were set aside since the driver was opened."""

    def __init__(self, hypervisor: Hypervisor, registry: VmRegistry, seeding: Seeding) -> None:
        self._hypervisor, self._registry, self._seeding = hypervisor, registry, seeding
        self._found: dict[str, FoundVm] = {}

    def put(self, vms: Iterable[str]) -> None:
        """Set VMs aside, in place of those that were."""
        self._found = {vm: self._look_at(vm) for vm in vms}
        for vm, found in self._found.items():
            extra = {"vm": vm, "name_of_vm": found.name, "flaw": found.flaw, "next": found.advice}
            log.error("unknown vm set aside", extra=extra)

    def has(self, vm: str) -> bool:
        """Say whether a VM is set aside."""
        return vm in self._found

    def ids(self) -> list[str]:
        """Name the VMs that are set aside."""
        return list(self._found)

    def spec(self, vm: str) -> VmSpec | None:
        """Give what one was made from; None where it cannot be read."""
        found = self._found.get(vm)
        return found.spec if found is not None else None

    def named(self, name: str) -> str | None:
        """Give the id of one of that name, or None."""
        return next((vm for vm, found in self._found.items() if found.name == name), None)

    async def status(self, vm: str) -> VmStatus:
        """Show one, also where its hypervisor cannot tell how it is. Raises UnknownVm."""
        try:
            state = str(await self._hypervisor.state(vm))
        except HypervisorError as error:
            state = str(error)
        return self.told(vm, state)

    def told(self, vm: str, how: str) -> VmStatus:
        """Show one of which this is known. Raises UnknownVm."""
        found = self._found.get(vm)
        if found is None:
            raise UnknownVm(f"vm = {vm!r}: this host has no such VM")
        spec = found.spec
        # What to do about it stands behind, and is not to be cut off.
        known = clip("; ".join(filter(None, [how, found.flaw])), MOST_OF_A_REASON // 2)
        bound = f"left so, its login goes after {SILENT_DAYS} days"
        return VmStatus(
            vm=vm,
            name=clip(found.name, MOST_OF_A_NAME),
            state=VmState.SET_ASIDE,
            reason=clip(f"{known}; this host's agent does not know it: {found.advice}; {bound}", MOST_OF_A_REASON),
            generation=self._told_generation(vm),
            hypervisor=self._hypervisor.name,
            cpus=spec.cpus if spec is not None else 0,
            memory_mib=spec.memory_mib if spec is not None else 0,
            disk_mib=spec.disk_mib if spec is not None else 0,
            image=spec.image.id if spec is not None and spec.image is not None else "",
        )

    async def adopt(self, vm: str, *, autostart: bool) -> None:
        """Take one into the registry, durably, as it is; one that was adopted already is no error.

        Raises IllegalVerb when its name is another's, HypervisorError when it cannot be read, and BrokerError or
        Unsupported when it is adopted and has no login: its principal was being revoked.
        """
        if vm not in self._found:
            return
        spec = self._hypervisor.spec(vm)
        other = self._registry.named(spec.name)
        if other is not None:
            choice = f"{command(Verb.DELETE, other.vm)} first, or {command(Verb.DISCARD, vm)}"
            raise IllegalVerb(f"{spec.name} is the name of another VM too, {other.vm}: {choice}")
        is_live = await self._hypervisor.state(vm) not in WITHOUT_PROCESS
        was_leaving = vm in self._registry.leaving
        with naming_disk(f"cannot adopt {spec.name}"):
            self._registry.put(self._record(spec, is_live=is_live, autostart=autostart))
        del self._found[vm]
        log.info("vm adopted", extra={"vm": vm, "name_of_vm": spec.name})
        if was_leaving and is_live:
            await self._renew_login(vm)

    async def discard(self, vm: str) -> None:
        """End one and remove all that belongs to it; its principal is revoked as a deleted VM's is."""
        await self._hypervisor.poweroff(vm)
        await self._hypervisor.delete(vm)
        with naming_disk(f"cannot forget {vm}"):
            self._registry.remove(vm)
        self._found.pop(vm, None)
        log.info("vm discarded", extra={"vm": vm})

    async def _renew_login(self, vm: str) -> None:
        """Its old login may be gone, or go with a request that is under way: what is asked for after that is newer."""
        medium = self._hypervisor.capabilities.seed_medium
        if medium is None:
            text = "it is adopted and its login may be revoked"
            raise Unsupported(text, hint=f"{command(Verb.RESET, vm)} gives it one")
        try:
            await medium.offer(vm, await self._seeding.next_seed(vm))
        except BrokerError as error:
            how = f"{command(Verb.RESET, vm)} gives it one"
            raise BrokerError(f"it is adopted and its login may be revoked: {error}; {how}") from error

    def _look_at(self, vm: str) -> FoundVm:
        try:
            return FoundVm(vm=vm, spec=self._hypervisor.spec(vm))
        except HypervisorError as error:
            return FoundVm(vm=vm, flaw=str(error))

    def _told_generation(self, vm: str) -> int:
        try:
            return self._seeding.told_generation(vm)
        except HypervisorError:
            return 0

    def _record(self, spec: VmSpec, *, is_live: bool, autostart: bool) -> VmRecord:
        return VmRecord(
            vm=spec.id,
            name=spec.name,
            cpus=spec.cpus,
            memory_mib=spec.memory_mib,
            disk_mib=spec.disk_mib,
            image=spec.image.id if spec.image else "",
            generation=self._told_generation(spec.id),
            autostart=autostart,
            wish=Wish.RUNNING if is_live else Wish.OFF,
        )
