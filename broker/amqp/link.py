"""One life of one AMQP connection: pika's asyncio adapter made awaitable.

A link connects once and breaks once; reconnecting is ``broker.recovery``'s. Foreign errors are mapped in this package
and leak nowhere.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from broker.address import Address
from broker.amqp.foreign import CONNECT_TIMEOUT_S, GONE, cause_of, most_telling, parameters, to_ours
from broker.amqp.publisher import ChannelPublisher
from broker.amqp.stream import GatheringConnection
from broker.confirms import fail
from broker.delivery import DeliveryHandler, Settle, Start, Subscription
from broker.errors import BrokerError, Disconnected, QueueGone
from broker.inbound import receiver
from broker.receipts import Receipts
from schemas.endpoints import Endpoint

#: How long the broker may take to answer on an open link, and to say goodbye, seconds: a frozen one says nothing.
ANSWER_TIMEOUT_S = 8.0
GOODBYE_TIMEOUT_S = 2.0
#: Pseudo-queue of RabbitMQ's direct reply-to; consumed on the channel that publishes.
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"

# pika logs every refused login and broken socket with a traceback of its own; ours say it once, in our words.
logging.getLogger("pika").setLevel(logging.CRITICAL)

log = logging.getLogger(__name__)


class Link:
    """An open connection; what it is asked is answered in seconds, or it breaks: ``closed`` tells why. Never raises."""

    def __init__(self, user: str) -> None:
        loop = asyncio.get_running_loop()
        self.user = user
        self.closed: asyncio.Future[BrokerError] = loop.create_future()
        #: Called at the moment it breaks: who hears of it by ``closed`` alone hears of it a turn of the loop later.
        self.on_break: Callable[[], None] = lambda: None
        #: Why the broker takes no messages for now, in its words; empty while it does.
        self.blocked = ""
        self._loop = loop
        #: The connection has ended, and its socket with it: later than ``closed``, which is when it is of no use.
        self._gone = asyncio.Event()
        self._amqp: Any = None
        #: What it publishes with.
        self.publisher = ChannelPublisher(user)

    @classmethod
    async def connect(cls, address: Address, *, name: str, heartbeat_s: int) -> Link:
        """Connect to one of the endpoints, log in and open the publishing channel: each is tried in turn, beginning
        anywhere, so that not all go to the first. Raises what the most telling of them said: LoginRefused, Untrusted,
        Disconnected."""
        errors: list[tuple[Endpoint, BrokerError]] = []
        for endpoint in random.sample(address.endpoints, len(address.endpoints)):
            try:
                return await cls._connect(address, endpoint, name, heartbeat_s)
            except BrokerError as error:
                errors.append((endpoint, error))
        raise most_telling(errors)

    @classmethod
    async def _connect(cls, address: Address, endpoint: Endpoint, name: str, heartbeat_s: int) -> Link:
        link = cls(address.user)
        opened: asyncio.Future[Any] = link._loop.create_future()
        link._amqp = GatheringConnection(
            parameters(address, endpoint, name, heartbeat_s),
            on_open_callback=lambda _: _resolve(opened, None),
            on_open_error_callback=lambda amqp, error: fail(
                opened, to_ours(cause_of(amqp.ended_by or error), address.tls)
            ),
            on_close_callback=lambda _, error: link._on_gone(error),
            custom_ioloop=link._loop,
        )
        link._amqp.owner = address.owner
        try:
            await link._unless_closed(opened, CONNECT_TIMEOUT_S * 2)
            link._amqp.add_on_connection_blocked_callback(link._on_blocked)
            link._amqp.add_on_connection_unblocked_callback(lambda *_: link._on_unblocked())
            channel = await link._open_channel(link._on_publisher_closed)
            link.publisher.use(channel)
            await link._call(channel.confirm_delivery, link.publisher.on_confirm)
        except BaseException:
            link.abandon()
            raise
        return link

    async def subscribe(self, subscription: Subscription, start: Start) -> None:
        """Consume a queue on a channel of its own. Raises QueueGone or Disconnected; the link is of no use then."""
        channel = await self._open_channel(lambda error: self._give_up(to_ours(error)))
        if subscription.bind_to:
            await self._declare_own(channel, subscription)
        await self._call(channel.basic_qos, prefetch_count=subscription.prefetch)
        channel.add_on_cancel_callback(lambda _: self._give_up(QueueGone(f"{subscription.queue} was deleted")))
        receive = receiver(subscription, receipts_of(channel, self._loop.call_soon), start)
        await self._call(channel.basic_consume, subscription.queue, receive)

    async def depth(self, queue: str) -> tuple[int, int]:
        """Count a queue's messages that nobody holds, and its consumers. Raises QueueGone or Disconnected."""
        channel = await self._open_channel(lambda error: self._give_up(to_ours(error)))
        found = await self._call(channel.queue_declare, queue, passive=True)
        return found.method.message_count, found.method.consumer_count

    async def lock(self, name: str) -> None:
        """Declare a queue that lives as long as this link, and is nobody else's. Raises Forbidden or Disconnected; the
        link is of no use then."""
        channel = await self._open_channel(lambda error: self._give_up(to_ours(error)))
        await self._call(channel.queue_declare, name, exclusive=True)

    async def subscribe_direct(self, handler: DeliveryHandler, start: Start) -> None:
        """Take answers by direct reply-to for what is published from now on."""
        nothing = Receipts(lambda _: lambda _: None, lambda _: None, lambda _: None)  # it is acknowledged as it comes
        receive = receiver(Subscription(queue=DIRECT_REPLY_TO, handler=handler), nothing, start)
        await self._call(self.publisher.channel.basic_consume, DIRECT_REPLY_TO, receive, auto_ack=True)

    async def close(self) -> None:
        """Say goodbye and wait until the socket is closed; without an answer break at once. Idempotent."""
        if self._amqp is None:
            return
        if self._amqp.is_open:
            self._amqp.close()
        if not await self._is_gone_within(GOODBYE_TIMEOUT_S):
            self.abandon()
            await self._is_gone_within(GOODBYE_TIMEOUT_S)

    async def _is_gone_within(self, limit_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._gone.wait()
        return self._gone.is_set()

    def abandon(self, why: str = "abandoned") -> None:
        """Break at once, without a word to the broker. Idempotent."""
        transport = getattr(self._amqp, "_transport", None)
        if transport is not None:
            transport.abort()
        elif self._amqp is not None and not (self._amqp.is_closing or self._amqp.is_closed):
            self._amqp.close()
        self._break(Disconnected(why))

    async def _open_channel(self, on_closed: Callable[[BaseException], None]) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        with _ours():
            channel = self._amqp.channel(on_open_callback=lambda opened: _resolve(future, opened))
            channel.add_on_close_callback(lambda _, error: on_closed(error))
        return await self._unless_closed(future)

    async def _declare_own(self, channel: Any, subscription: Subscription) -> None:
        arguments = {"x-max-length-bytes": subscription.max_bytes, "x-overflow": "drop-head"}
        await self._call(channel.queue_declare, subscription.queue, exclusive=True, arguments=arguments)
        exchange, key = subscription.bind_to or ("", "")
        await self._call(channel.queue_bind, subscription.queue, exchange, routing_key=key)

    async def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a pika method that answers by callback, and await the answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        with _ours():
            method(*args, callback=lambda frame: _resolve(future, frame), **options)
        return await self._unless_closed(future)

    async def _unless_closed(self, future: asyncio.Future[Any], within_s: float | None = None) -> Any:
        """Await an answer of the broker. Raises what broke the link; a broker that says nothing breaks it too."""
        within_s = within_s or ANSWER_TIMEOUT_S
        await asyncio.wait([future, self.closed], timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if not self.closed.done():
            self.abandon(f"the broker did not answer in {within_s:.0f} s")
        raise self.closed.result()

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked = f"it takes no messages for now: {frame.method.reason}"

    def _on_unblocked(self) -> None:
        self.blocked = ""

    def _on_publisher_closed(self, error: BaseException) -> None:
        """Fail for good those publishes alone that the broker names; of all others the outcome is unknown."""
        reason = to_ours(error)
        self.publisher.blame(reason)
        self._give_up(Disconnected(str(reason)))

    def _give_up(self, reason: BrokerError) -> None:
        """A channel broke: the whole link goes, so that one path recovers everything."""
        self._break(reason)
        if self._amqp.is_open:
            self._amqp.close()

    def _on_gone(self, error: BaseException) -> None:
        self._gone.set()
        self._break(to_ours(error))

    def _break(self, reason: BrokerError) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
            self.on_break()
        self.publisher.break_off(reason)


def receipts_of(channel: Any, soon: Callable[[Callable[[], None]], object]) -> Receipts:
    """Give what acknowledges the deliveries of a channel, or rejects them; on one that is gone nothing happens."""

    def say(method: Callable[..., None], tag: int, **how: bool) -> None:
        if not channel.is_open:
            return
        try:
            method(tag, **how)
        except GONE as error:
            log.debug("not settled, will come again", extra={"why": repr(error)})

    def settler(tag: int) -> Settle:
        return lambda rejected: say(channel.basic_nack, tag, requeue=False) if rejected else say(channel.basic_ack, tag)

    return Receipts(settler, lambda tag: say(channel.basic_ack, tag, multiple=True), soon)


@contextmanager
def _ours() -> Iterator[None]:
    """Let a call of pika raise our errors: the connection may be closing, and we not have heard of it."""
    try:
        yield
    except GONE as error:
        raise to_ours(error) from error


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
