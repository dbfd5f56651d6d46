"""A carrier within one process: exchanges, queues, confirms and redelivery as a broker's, in memory.

For tests of what rides on a carrier, without a broker. It does not show what only a broker does: permissions, limits of
queues, expiry, durability. A queue named as a key of ``vc.down`` gets what is sent there; others are bound.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from broker.daemon.tasks import OwnedTasks
from broker.delivery import DeliveryHandler, Settle, Start, Subscription
from broker.errors import Disconnected, NotDelivered, Unroutable
from broker.inbound import recall, receiver
from broker.routes import DOWN, matches
from schemas.envelope import Message


class Publication(Struct, frozen=True, kw_only=True):
    """What was sent, as a broker has it: the sender is the carrier's word."""

    exchange: str
    routing_key: str
    body: bytes
    user_id: str
    message_id: str = ""
    persistent: bool = True
    headers: dict[str, Any] | None = None


class _Method:
    """A delivery's method and properties, as the AMQP library gives them."""

    correlation_id = reply_to = None

    def __init__(self, tag: int, one: Publication, *, redelivered: bool) -> None:
        self.delivery_tag, self.redelivered = tag, redelivered
        self.exchange, self.routing_key = one.exchange, one.routing_key
        self.user_id, self.message_id, self.headers = one.user_id, one.message_id, one.headers
        self.delivery_mode = 2 if one.persistent else 1


class _Consumer:
    """One who takes from a queue, and what he has not settled. Settles what ``receiver`` hands out."""

    def __init__(self, queue: _Queue, subscription: Subscription, start: Start, on_reject: _Rejected) -> None:
        self.queue, self.prefetch = queue, subscription.prefetch
        self.unsettled: dict[int, Publication] = {}
        self._on_reject = on_reject
        self._receive = receiver(subscription, self, start)
        self._tags = 0

    def take(self, one: Publication, *, redelivered: bool) -> None:
        self._tags += 1
        self.unsettled[self._tags] = one
        method = _Method(self._tags, one, redelivered=redelivered)
        self._receive(None, method, method, one.body)

    def open(self, tag: int) -> Settle:
        """Give what settles a message that goes on to its reader."""
        return lambda rejected: self._settle(tag, rejected=rejected)

    def drop(self, tag: int) -> None:
        """Acknowledge one that nobody reads."""
        self._settle(tag, rejected=False)

    def _settle(self, tag: int, *, rejected: bool) -> None:
        one = self.unsettled.pop(tag, None)
        if one is not None and rejected:
            self._on_reject(one)
        self.queue.pump_soon()


_Rejected = Callable[[Publication], None]


class _Queue:
    """What waits, oldest first, and who takes it in turn."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Publication, bool]] = deque()
        self.consumers: deque[_Consumer] = deque()

    def put(self, one: Publication) -> None:
        self.waiting.append((one, False))
        self.pump_soon()

    def leave(self, consumer: _Consumer) -> None:
        """Take back what a consumer had at hand, in its order, for whoever comes next."""
        self.consumers.remove(consumer)
        left, consumer.unsettled = consumer.unsettled, {}
        self.waiting.extendleft((one, True) for one in reversed(left.values()))
        self.pump_soon()

    def pump_soon(self) -> None:
        if self.waiting and self.consumers:
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        while self.waiting:
            consumer = next((one for one in self.consumers if len(one.unsettled) < one.prefetch), None)
            if consumer is None:
                return
            self.consumers.rotate(-1)
            one, redelivered = self.waiting.popleft()
            consumer.take(one, redelivered=redelivered)


class MemoryBroker:
    """The exchanges and queues that carriers share."""

    def __init__(self, *, keeps_all: bool = False) -> None:
        """``keeps_all``: what no queue is for is confirmed too, and found in ``published`` alone."""
        self._keeps_all = keeps_all
        self._queues: dict[str, _Queue] = {}
        self._bindings: list[tuple[str, str, str]] = []
        #: All that was sent, and all that was rejected by who read it.
        self.published: list[Publication] = []
        self.rejected: list[Publication] = []
        #: Called with each message as it is sent.
        self.on_publish: list[Callable[[Publication], None]] = []

    def queue(self, name: str) -> _Queue:
        """Have a queue. Idempotent."""
        return self._queues.setdefault(name, _Queue())

    def bind(self, queue: str, exchange: str, pattern: str) -> None:
        """Have what is sent to an exchange under keys like ``pattern`` (``*`` a word, ``#`` any) come to a queue."""
        self.queue(queue)
        self._bindings.append((exchange, pattern, queue))

    def forget(self, queue: str) -> None:
        """Have a queue and its bindings no more."""
        self._queues.pop(queue, None)
        self._bindings = [one for one in self._bindings if one[2] != queue]

    def route(self, one: Publication) -> bool:
        """Put a message where it belongs; False: there is no such place."""
        self.published.append(one)
        for callback in self.on_publish:
            callback(one)
        names = {
            queue
            for exchange, pattern, queue in self._bindings
            if one.exchange == exchange and matches(pattern, one.routing_key)
        }
        if one.exchange == DOWN and one.routing_key in self._queues:
            names.add(one.routing_key)
        for name in names:
            self._queues[name].put(one)
        return bool(names) or self._keeps_all


class MemoryCarrier:
    """One principal's way to a memory broker; it is up from the start. See ``broker.carrier.Carrier``."""

    def __init__(self, user: str, broker: MemoryBroker | None = None) -> None:
        """Without a broker it has one of its own, which keeps all that is said and answers nothing."""
        self.user, self.broker = user, broker or MemoryBroker(keeps_all=True)
        self.on_up: list[Callable[[], None]] = []
        self.links, self.up_since, self.trouble = 1, time.monotonic(), ""
        #: Looked at by nobody but who is to find the link down.
        self.is_up = True
        self._up = asyncio.Event()
        self._up.set()
        self._subscriptions: list[Subscription] = []
        self._consumers: list[_Consumer] = []
        self._handling = OwnedTasks(f"memory carrier of {user}")

    @property
    def sent(self) -> list[tuple[str, str, bytes]]:
        """All that this principal has sent, as (exchange, key, body)."""
        return [(p.exchange, p.routing_key, p.body) for p in self.broker.published if p.user_id == self.user]

    def sent_to(self, exchange: str) -> list[tuple[str, Message]]:
        """What of it went to an exchange, decoded, as (key, message)."""
        return [(key, recall(body)) for where, key, body in self.sent if where == exchange]

    async def open(self) -> None:
        """Do nothing: it is open."""

    async def close(self) -> None:
        """Leave the broker: what was at hand goes back, and what still works on it is cancelled. Idempotent."""
        self._leave()
        await self._handling.cancel()

    def cut(self) -> None:
        """Break the link, until ``mend``."""
        self.is_up, self.trouble = False, "the link is cut"
        self._up.clear()
        self._leave()

    def mend(self) -> None:
        """Have a link again, and all that was consumed."""
        self.is_up, self.trouble = True, ""
        self.links, self.up_since = self.links + 1, time.monotonic()
        for subscription in self._subscriptions:
            self._subscribe(subscription)
        self._up.set()
        for callback in self.on_up:
            callback()

    async def wait_up(self) -> None:
        """Wait while the link is cut."""
        await self._up.wait()

    def send(self, exchange: str, key: str, body: bytes, **options: Any) -> asyncio.Future[None]:
        """Send at once; what is confirmed is in its queue."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if error := self._refusal(exchange, key, body, **options):
            future.set_exception(error)
            future.exception()
        else:
            future.set_result(None)
        return future

    async def publish(self, exchange: str, key: str, body: bytes, **options: Any) -> None:
        """Send once. Raises Unroutable or Disconnected."""
        await self.send(exchange, key, body, **options)

    async def deliver(self, exchange: str, key: str, body: bytes, **options: Any) -> None:
        """Send until confirmed. Raises Unroutable."""
        while True:
            await self.wait_up()
            try:
                return await self.publish(exchange, key, body, **options)
            except Disconnected:
                continue

    async def consume(self, queue: str, handler: DeliveryHandler, *, prefetch: int = 100, **options: Any) -> None:
        """Take what comes to a queue, which is made if there is none."""
        subscription = Subscription(queue=queue, handler=handler, prefetch=prefetch, **options)
        self._subscriptions.append(subscription)
        if self.is_up:
            self._subscribe(subscription)

    def _refusal(
        self, exchange: str, key: str, body: bytes, *, message_id: str = "", mandatory: bool = True, **properties: Any
    ) -> NotDelivered | None:
        if not self.is_up:
            return Disconnected(self.trouble)
        sender = properties.get("sender") or self.user
        known = {name: value for name, value in properties.items() if name in ("persistent", "headers")}
        one = Publication(exchange=exchange, routing_key=key, body=body, user_id=sender, message_id=message_id, **known)
        if self.broker.route(one) or not mandatory:
            return None
        return Unroutable("the broker has no queue for it")

    def _subscribe(self, subscription: Subscription) -> None:
        queue = self.broker.queue(subscription.queue)
        if subscription.bind_to:
            self.broker.bind(subscription.queue, *subscription.bind_to)
        consumer = _Consumer(queue, subscription, self._handling.spawn, self.broker.rejected.append)
        self._consumers.append(consumer)
        queue.consumers.append(consumer)
        queue.pump_soon()

    def _leave(self) -> None:
        for consumer in self._consumers:
            consumer.queue.leave(consumer)
        self._consumers.clear()
        for subscription in self._subscriptions:
            if subscription.bind_to:
                self.broker.forget(subscription.queue)
