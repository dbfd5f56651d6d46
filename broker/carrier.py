"""What rpc and transfers need of a way to the other side, whatever carries it.

Three carry: a connection to RabbitMQ (``broker.connection``), the local road between a host and its guest
(``broker.road``), and the memory of one process (``broker.memory``). Words are AMQP's: a message goes to an exchange
under a key, and comes from a queue; who wrote it the carrier knows and vouches for, never the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from broker.delivery import DeliveryHandler


class Sender(Protocol):
    """What sends a body to where a route leads, as ``user``."""

    @property
    def user(self) -> str:
        """The principal as whom it speaks; empty before it is known."""

    async def publish(self, exchange: str, key: str, body: bytes, *, message_id: str, **options: Any) -> None:
        """Send once and wait for the confirm. Raises Unroutable, Nacked, Forbidden or Disconnected."""

    async def deliver(self, exchange: str, key: str, body: bytes, *, message_id: str, **options: Any) -> None:
        """Send until confirmed, under the same id each time; only Unroutable and Forbidden end it."""

    def send(self, exchange: str, key: str, body: bytes, *, message_id: str, **options: Any) -> asyncio.Future[None]:
        """Send at once and give the confirm's future, which ends as ``publish`` does. Raises nothing."""


class Carrier(Sender, Protocol):
    """A sender that also receives, and that comes back when its link breaks."""

    #: Called each time a link is up and its consumers run.
    on_up: list[Callable[[], None]]

    @property
    def is_up(self) -> bool:
        """A link is open and its consumers run."""

    @property
    def up_since(self) -> float | None:
        """Monotonic time since when it is; None while it is not."""

    @property
    def links(self) -> int:
        """Links made so far; above 1 means reconnects."""

    @property
    def trouble(self) -> str:
        """Say why nothing is confirmed, for a person."""

    async def open(self) -> None:
        """Have a link for the first time; waits for it."""

    async def close(self) -> None:
        """End it, in seconds. Idempotent."""

    async def wait_up(self) -> None:
        """Wait until a link is open and its consumers run."""

    async def consume(self, queue: str, handler: DeliveryHandler, *, prefetch: int = 100, **options: Any) -> None:
        """Take what comes to a queue, now and after every reconnect; ``options`` are ``Subscription``'s."""
