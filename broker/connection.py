"""A principal's connection to the broker: one that comes back.

It starts its consumers again on each new link (``broker.recovery``). What is in flight when a link breaks fails with
Disconnected: outcome unknown, publish again with the same id (``deliver`` does so). It never decides what a message
means.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from broker.address import Address
from broker.backoff import backoff
from broker.consumers import Consumers
from broker.delivery import Delivery, DeliveryHandler, Properties, Subscription
from broker.errors import BrokerError, Disconnected, Forbidden, NotDelivered, Unroutable
from broker.recovery import AddressSource, Recovery

log = logging.getLogger(__name__)

__all__ = ["AddressSource", "Connection", "Delivery", "DeliveryHandler", "Properties", "Subscription"]

#: Longest wait before the next try to connect, seconds: of agents, whose rush on a broker that is back is spread so,
#: and of the few for whom a person waits, which are the centre's own processes and his console.
AGENT_WAIT_MOST_S, CENTRE_WAIT_MOST_S = 10.0, 1.0
#: Messages that may be on their way unconfirmed.
WINDOW = 1000


class Connection:
    """See the module. All methods belong to the loop that opened it."""

    def __init__(
        self,
        source: Address | AddressSource,
        *,
        name: str,
        heartbeat_s: int = 10,
        wait_most_s: float = AGENT_WAIT_MOST_S,
    ) -> None:
        self._consumers = Consumers(name)
        self._recovery = Recovery(
            source, self._consumers.start, name=name, heartbeat_s=heartbeat_s, wait_most_s=wait_most_s
        )
        self._window = asyncio.Semaphore(WINDOW)
        #: Called each time a link is up and its consumers run; for hellos and for what must be said again.
        self.on_up = self._recovery.on_up

    @property
    def user(self) -> str:
        """The principal as whom the last link logged in; empty before the first."""
        return self._recovery.link.user if self._recovery.link else ""

    @property
    def trouble(self) -> str:
        """Say why nothing is confirmed: what ended the last link, or that the broker on this one is silent or full."""
        if self._recovery.up_link is None:
            return str(self.last_error)
        return self._recovery.up_link.blocked or "it took the message and does not confirm it"

    @property
    def last_error(self) -> BrokerError:
        """What ended the last link, or why there is none yet."""
        return self._recovery.last_error

    @property
    def is_up(self) -> bool:
        """A link is open and its consumers run."""
        return self._recovery.up_link is not None

    @property
    def up_since(self) -> float | None:
        """Monotonic time since when the link is up; None while it is down."""
        return self._recovery.up_since

    @property
    def links(self) -> int:
        """Links made so far; above 1 means reconnects."""
        return self._recovery.links

    async def __aenter__(self) -> Connection:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, *, patience_s: float | None = None) -> None:
        """Connect for the first time.

        With ``patience_s`` None it waits for a broker that is down for as long as it takes; a refused login or queue
        of a fixed address raises LoginRefused or QueueGone. Raises Disconnected when the patience is at its end.
        """
        try:
            await self._recovery.open(patience_s=patience_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop consumers and tasks, close the link; in seconds, whatever the broker does. Idempotent."""
        await self._recovery.close()
        await self._consumers.cancel()

    async def reconnect(self) -> None:
        """Drop the link; the next one asks the address source for a credential of the newest generation."""
        await self._recovery.drop()

    async def wait_up(self) -> None:
        """Wait until a link is open and its consumers run."""
        await self._recovery.wait_up()

    async def publish(self, exchange: str, key: str, body: bytes, *, mandatory: bool = True, **properties: Any) -> None:
        """Publish and wait for the confirm. Raises Unroutable, Nacked, Forbidden or Disconnected."""
        async with self._window:
            await self.send(exchange, key, body, mandatory=mandatory, **properties)

    def send(
        self, exchange: str, key: str, body: bytes, *, mandatory: bool = True, **properties: Any
    ) -> asyncio.Future[None]:
        """Publish at once and return the confirm's future; the caller bounds how many it leaves open."""
        link = self._recovery.up_link
        if link is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(Disconnected(f"not connected: {self.last_error}"))
            future.exception()
            return future
        return link.publisher.send(exchange, key, body, Properties(**properties), mandatory=mandatory)

    async def deliver(self, exchange: str, key: str, body: bytes, *, message_id: str, **properties: Any) -> None:
        """Publish until confirmed, with the same id each time; only Unroutable and Forbidden end it."""
        for wait_s in backoff(0.05, 10.0):
            try:
                await self.wait_up()
                return await self.publish(exchange, key, body, message_id=message_id, **properties)
            except (Unroutable, Forbidden):
                raise
            except NotDelivered as error:
                log.info("publish again", extra={"key": key, "why": str(error)})
                await asyncio.sleep(wait_s)
        return None

    async def consume(self, queue: str, handler: DeliveryHandler, *, prefetch: int = 100, **options: Any) -> None:
        """Consume ``queue`` from now on and after every reconnect. Raises QueueGone or Disconnected this first time."""
        subscription = Subscription(queue=queue, handler=handler, prefetch=prefetch, **options)
        await self._consumers.add(subscription, self._recovery.up_link)

    async def consume_direct(self, handler: DeliveryHandler) -> None:
        """Take answers by direct reply-to, from now on and after every reconnect."""
        await self._consumers.set_direct(handler, self._recovery.up_link)

    async def depth(self, queue: str) -> tuple[int, int]:
        """Count a queue's messages that nobody holds, and its consumers. Raises QueueGone or Disconnected."""
        return await self._recovery.require_link().depth(queue)

    async def lock(self, name: str) -> None:
        """Hold what only one connection holds at a time, until this one ends: an exclusive queue of that name. Raises
        Forbidden while another holds it, and this connection is of no use then; Disconnected."""
        await self._recovery.require_link().lock(name)
