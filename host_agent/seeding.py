"""What a guest is told at its next boot: a generation of its own, and the way to its centre that goes with it: a
one-time login to the broker, or the road to its host and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct, structs

from broker.address import Address
from broker.peer import ANYBODY
from broker.tls import name_at
from host_agent.errors import naming_disk
from host_agent.hypervisors.contract import Hypervisor
from host_agent.registry import VmRegistry
from schemas.endpoints import Endpoint, Tls
from schemas.enrol import EnrolGranted
from schemas.errors import DecodeError
from schemas.seed import Seed, decode_seed, encode_seed

#: Asks the key manager for the one-time login of a VM's generation.
Grant = Callable[[str, int], Awaitable[EnrolGranted]]


class Access(Struct, frozen=True, kw_only=True):
    """A guest's way to the broker; the fields are the seed's. Empty: its host is its centre."""

    endpoints: tuple[Endpoint, ...] = ()
    vhost: str = ""
    tls: Tls | None = None
    login_user: str = ""
    login_password: str = ""
    owner: int = ANYBODY


#: Gives the way to the centre for a VM's generation. Raises BrokerError.
AccessOf = Callable[[str, int], Awaitable[Access]]


class BrokerLogins:
    """The broker, with a one-time login for each generation."""

    def __init__(self, hypervisor: Hypervisor, broker: Address, grant: Grant) -> None:
        self._hypervisor, self._broker, self._grant = hypervisor, broker, grant

    async def __call__(self, vm: str, generation: int) -> Access:
        """Ask for the login. Raises BrokerError."""
        granted, relay = await self._grant(vm, generation), self._hypervisor.capabilities.relay
        endpoints = relay.endpoints if relay is not None else self._broker.endpoints
        return Access(
            endpoints=endpoints,
            vhost=self._broker.vhost,
            tls=_tls_for_guest(self._broker),
            login_user=granted.user,
            login_password=granted.password,
            owner=self._broker.owner if endpoints == self._broker.endpoints else ANYBODY,
        )


async def no_broker(vm: str, generation: int) -> Access:
    """Give the way of a guest whose host is its centre."""
    return Access()


class GuestSettings:
    """What every guest of this host is told beside who it is."""

    def __init__(self, slots: int, settings: dict[str, float]) -> None:
        self.slots, self.settings = slots, settings


class Seeding:
    """See the module."""

    def __init__(self, hypervisor: Hypervisor, registry: VmRegistry, guests: GuestSettings, access: AccessOf) -> None:
        self._hypervisor, self._registry = hypervisor, registry
        self._guests, self._access = guests, access

    async def next_seed(self, vm: str) -> bytes:
        """Get what the guest needs to come back as the next generation, and begin that. Raises BrokerError and
        HostDiskFull; then the generation is as it was, and a guest that runs is still it."""
        told = await asyncio.to_thread(self.told_generation, vm)
        access = await self._access(vm, self._registry.next_generation(vm, beyond=told))
        with naming_disk("cannot begin a generation"):
            record = self._registry.raise_generation(vm, beyond=told)
        roads = self._hypervisor.capabilities.roads
        return encode_seed(
            Seed(
                vm=vm,
                name=record.name,
                generation=record.generation,
                slots=self._guests.slots or record.cpus,
                settings=self._guests.settings,
                road=roads.guest_end if roads is not None else "",
                **structs.asdict(access),
            )
        )

    def told_generation(self, vm: str) -> int:
        """Say which generation the guest was told last, 0 if none: a registry brought back from a copy may be older."""
        medium = self._hypervisor.capabilities.seed_medium
        seed = medium.newest(vm) if medium is not None else None
        try:
            return decode_seed(seed).generation if seed else 0
        except DecodeError:
            return 0


def _tls_for_guest(broker: Address) -> Tls | None:
    """Say by which name a guest knows the broker: what it connects to may be our relay. It has no certificate."""
    if broker.tls is None:
        return None
    return Tls(ca=broker.tls.ca, name=name_at(broker.tls, broker.endpoints[0]))
