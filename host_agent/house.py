"""What a host has whoever is its centre: its VMs, what is done with them and known of them, roads to their guests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from host_agent.aside import SetAside
from host_agent.config import Limits
from host_agent.control import VmControl
from host_agent.guests import Guests
from host_agent.hypervisors.contract import GuestPorts, Hypervisor, ImageSource, StateListener
from host_agent.making import VmMaking
from host_agent.registry import VmRegistry
from host_agent.seeding import AccessOf, GuestSettings, Seeding
from host_agent.statuses import VmStatuses


class HouseRules(Struct, frozen=True, kw_only=True):
    """What is decided for all VMs of a host."""

    #: Whose VMs they are.
    host: str
    #: File that says where the broker is; None: there is none.
    broker: Path | None
    guests: GuestSettings
    images: ImageSource
    default_image: str = ""
    limits: Limits = Limits()
    #: Says of a VM's name what of its guest is reached from this host.
    ports_of: Callable[[str], GuestPorts] = lambda name: GuestPorts()


class VmHouse:
    """See the module. What is kept lies in ``directory``. ``open`` before all else."""

    def __init__(
        self, directory: Path, hypervisor: Hypervisor, registry: VmRegistry, access: AccessOf, rules: HouseRules
    ) -> None:
        self.directory, self.hypervisor, self.registry = directory, hypervisor, registry
        seeding = Seeding(hypervisor, registry, rules.guests, access)
        self.aside = SetAside(hypervisor, registry, seeding)
        making = VmMaking(
            hypervisor,
            registry,
            self.aside,
            rules.images,
            rules.default_image,
            rules.broker,
            rules.host,
            rules.ports_of,
        )
        self.statuses = VmStatuses(hypervisor, registry, self.aside)
        self.control = VmControl(hypervisor, registry, self.aside, making, seeding, self.statuses, rules.limits)
        self.guests = Guests(hypervisor, rules.host)
        self.statuses.guest, self.control.on_wake = self.guests.facts, self.guests.back

    async def open(self, on_state: StateListener) -> None:
        """Open the driver and bring registry and hypervisor to agreement. Raises HostError, OSError."""
        self.registry.load()
        await self.hypervisor.open(on_state)
        await self.control.settle()
