"""The way to a guest's centre: the broker, with the credential that the seed buys, or, where the seed names none, the
local road to its host, which is the centre then. What a job is knows neither."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from broker.carrier import Carrier
from broker.connection import Connection
from broker.delivery import DeliveryHandler
from broker.routes import queue_of
from broker.rpc import Handler, Journal, Responder, ServerClock
from broker.transfer.peer import ANY_ADAPTER
from guest_agent.errors import NotEnrolled
from guest_agent.identity import Identity
from guest_agent.local_road import LocalRoad
from guest_agent.machine import AGENT_VERSION
from schemas.enrol import EnrolConfirm
from schemas.envelope import Message
from schemas.ids import Kind

#: Commands and assignments taken and not yet journalled: enough for one sync of the journal to serve many.
PREFETCH = 64
#: Pieces of files taken and not yet written.
FILES_PREFETCH = 64

Handlers = Mapping[type[Message], Handler]


class Centre(Protocol):
    """See the module. ``serve``, then ``open`` once all that is handled can be."""

    @property
    def carrier(self) -> Carrier:
        """What is said to the centre, and by it, goes by this."""

    @property
    def storage(self) -> str:
        """Who has the inputs of jobs and takes their outputs, as transfers know it."""

    @property
    def confirms(self) -> tuple[Message, ...]:
        """What is said to the key manager each time that the link is new."""

    @property
    def refused(self) -> Counter[str]:
        """Messages that were refused, by reason."""

    async def serve(self, journal: Journal, handlers: Handlers, on_file: DeliveryHandler) -> None:
        """Handle what comes. Before ``open``."""

    async def open(self) -> None:
        """Have a link for the first time; waits for it, or for nothing where somebody else sees to that."""

    async def renew(self) -> None:
        """Come back as a newer generation."""

    async def stop(self) -> None:
        """Handle nothing any more; what is at work is cancelled. Idempotent."""

    async def close(self) -> None:
        """End the link. Idempotent."""


class BrokerCentre:
    """The centre behind the broker."""

    storage = ANY_ADAPTER
    confirms: tuple[Message, ...] = (EnrolConfirm(target="keys"),)

    def __init__(self, identity: Identity, clock: ServerClock) -> None:
        seed = identity.seed
        self._identity, self._clock, self._vm = identity, clock, seed.vm
        self.carrier = Connection(identity.address, name=f"{seed.vm} {seed.name}")
        self._responder: Responder | None = None

    @property
    def refused(self) -> Counter[str]:
        """See ``Centre``."""
        return self._responder.refused if self._responder is not None else Counter()

    async def serve(self, journal: Journal, handlers: Handlers, on_file: DeliveryHandler) -> None:
        """See ``Centre``."""
        self._responder = Responder(
            self.carrier,
            journal,
            dict(handlers),
            clock=self._clock,
            generation=lambda: self._identity.generation,
            version=AGENT_VERSION,
        )
        queue = queue_of(self._vm)
        await self.carrier.consume(queue, self._responder.on_delivery, prefetch=PREFETCH, bundles=True)
        await self.carrier.consume(f"{queue}.files", on_file, prefetch=FILES_PREFETCH)
        self._responder.recover(lambda kind: kind is not Kind.HOST)

    async def open(self) -> None:
        """See ``Centre``."""
        await self.carrier.open()

    async def renew(self) -> None:
        """See ``Centre``: after a restore the old credential is refused."""
        await self.carrier.reconnect()

    async def stop(self) -> None:
        """See ``Centre``."""
        if self._responder is not None:
            await self._responder.close()

    async def close(self) -> None:
        """See ``Centre``."""
        await self.carrier.close()


class HostCentre:
    """The host as its guest's centre. Commands and the time come by the same road; it is begun and left by others."""

    confirms: tuple[Message, ...] = ()

    def __init__(self, road: LocalRoad) -> None:
        """Raises NotEnrolled where the seed names no road either."""
        if road.carrier is None:
            raise NotEnrolled("the seed names neither a broker nor a road to the host that this agent knows")
        self._road, self.carrier, self.storage = road, road.carrier, road.host

    @property
    def refused(self) -> Counter[str]:
        """See ``Centre``."""
        return self._road.refused

    async def serve(self, journal: Journal, handlers: Handlers, on_file: DeliveryHandler) -> None:
        """See ``Centre``."""
        self._road.take(handlers)
        await self.carrier.consume(f"{queue_of(self.carrier.user)}.files", on_file, prefetch=FILES_PREFETCH)

    async def open(self) -> None:
        """See ``Centre``."""

    async def renew(self) -> None:
        """See ``Centre``: the road to a machine that was moved in time is another one anyway."""

    async def stop(self) -> None:
        """See ``Centre``: who ends the road has ended it."""

    async def close(self) -> None:
        """See ``Centre``."""


def centre_of(identity: Identity, road: LocalRoad, clock: ServerClock) -> Centre:
    """Give the way that the seed names. Raises NotEnrolled where it names none."""
    return BrokerCentre(identity, clock) if identity.seed.endpoints else HostCentre(road)
