"""What a connection consumes, on each link that it has: started again on the next one, handled by tasks of its own."""

from __future__ import annotations

from broker.amqp.link import Link
from broker.daemon.tasks import OwnedTasks
from broker.delivery import DeliveryHandler, Subscription


class Consumers:
    """See the module. ``connection`` is its name, for the log."""

    def __init__(self, connection: str) -> None:
        self._subscriptions: list[Subscription] = []
        self._direct: DeliveryHandler | None = None
        self._handling = OwnedTasks(f"connection {connection}")

    async def start(self, link: Link) -> None:
        """Start all on a new link. Raises QueueGone or Disconnected."""
        if self._direct is not None:
            await link.subscribe_direct(self._direct, self._handling.spawn)
        for subscription in self._subscriptions:
            await link.subscribe(subscription, self._handling.spawn)

    async def add(self, subscription: Subscription, link: Link | None) -> None:
        """Have one more, at once where there is a link. Raises QueueGone or Disconnected."""
        self._subscriptions.append(subscription)
        if link is not None:
            await link.subscribe(subscription, self._handling.spawn)

    async def set_direct(self, handler: DeliveryHandler, link: Link | None) -> None:
        """Have answers by direct reply-to handled, at once where there is a link."""
        self._direct = handler
        if link is not None:
            await link.subscribe_direct(handler, self._handling.spawn)

    async def cancel(self) -> None:
        """End what handles deliveries. Idempotent."""
        await self._handling.cancel()
