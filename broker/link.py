"""One life of one AMQP connection: pika's asyncio adapter made awaitable. Alone imports pika.

A link connects once and breaks once; reconnecting, and starting consumers again, is ``broker.connection``'s. Publishes
are pipelined: each is a future that resolves on the broker's confirm. Foreign errors are mapped here and leak nowhere.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pika
from pika import exceptions as foreign
from pika import frame
from pika.adapters.asyncio_connection import AsyncioConnection

from broker.address import Address
from broker.confirms import Confirms, fail
from broker.content import MOST_BYTES, read_content
from broker.delivery import DeliveryHandler, Properties, Settle, Subscription
from broker.errors import BrokerError, Crowded, Disconnected, Forbidden, LoginRefused, QueueGone, Unroutable, Untrusted
from broker.inbound import receiver
from broker.peer import ANYBODY, vouch
from broker.receipts import Receipts
from broker.tls import context_of, explain, name_at
from schemas.endpoints import Endpoint, Tls

#: How long a TCP connection and the AMQP handshake may take, seconds.
CONNECT_TIMEOUT_S = 10.0
#: The same where there are other endpoints to try.
NEXT_TIMEOUT_S = 2.0
#: How long the broker may take to answer on an open link, and to say goodbye, seconds: a frozen one says nothing.
ANSWER_TIMEOUT_S = 8.0
GOODBYE_TIMEOUT_S = 2.0
#: Octets of a frame before its payload, and around it.
_BEFORE_BYTES, _AROUND_BYTES = 7, 8
#: What is read from the socket at once: little, as pika does it, for what is read of several frames is copied with
#: each of them; but of a frame that has begun all the rest, which comes in 64 pieces else and is copied with each.
_READ_BYTES, _READ_MOST_BYTES = 4096, 128 << 10
#: How an alert of TLS begins: what a TLS listener says to AMQP's greeting.
_TLS_ALERT = b"\x15\x03"
#: Pseudo-queue of RabbitMQ's direct reply-to; consumed on the channel that publishes.
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"

# pika logs every refused login and broken socket with a traceback of its own; ours say it once, in our words.
logging.getLogger("pika").setLevel(logging.CRITICAL)

log = logging.getLogger(__name__)

#: What pika raises when it is called on a connection or a channel that is closing.
GONE = (foreign.AMQPConnectionError, foreign.AMQPChannelError)
#: What a broker says when a vhost is not there or not ours, and what it adds when that will pass by itself.
VHOST_REFUSED = re.compile(r"vhost .*not found|access to vhost .*refused")
PASSING = re.compile(r"limit \(|is down")
LIMIT_REACHED = re.compile(r"limit \(\d+\) is reached|reached the maximum allowed user limit")


class SpeaksTls(foreign.AMQPConnectionError):  # type: ignore[misc]
    """The other end answered our greeting in TLS."""


class GatheringConnection(AsyncioConnection):  # type: ignore[misc]  # pika exports no types for it
    """pika's asyncio connection, but what one turn of the loop writes goes out in one ``send``.

    pika sends each frame by itself, three for a publish: a third of a busy process's time (see docs, performance).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._gathered: list[bytes] = []
        #: To whom the other end must belong before it is sent the password.
        self.owner = ANYBODY
        #: Why the stream ended. Before the login is done pika tells its guess, a refused login, in place of this.
        self.ended_by: Exception | None = None
        #: What TLS had to say of its end.
        self._told: Exception | None = None
        super().__init__(*args, **options)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._emit_gathered)
        self._gathered.append(data)

    def _get_credentials(self, method_frame: Any) -> Any:
        """Answer the broker's greeting: by now the other end has accepted, and its owner is known."""
        vouch(self._transport._sock, self.owner)
        return super()._get_credentials(method_frame)

    def _emit_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if self._transport is not None:
            super()._adapter_emit_data(b"".join(gathered))

    def _on_data_available(self, data_in: bytes) -> None:
        super()._on_data_available(data_in)
        if self._transport is not None:
            missing = _frame_end(self._frame_buffer) - len(self._frame_buffer) if self._frame_buffer else 0
            self._transport._MAX_RECV_BYTES = min(max(missing, _READ_BYTES), _READ_MOST_BYTES)

    def _read_frame(self) -> Any:
        """Read a frame; content properties that pika cannot, or that would take it long, with our own reader.

        What is in them a stranger decides. Whatever else pika cannot read the broker itself has said: the link ends.
        """
        buffer = self._frame_buffer
        if buffer[0] != pika.spec.FRAME_HEADER:
            if buffer.startswith(_TLS_ALERT):
                self._told = SpeaksTls()
            return frame.decode_frame(buffer)
        end = _frame_end(buffer)
        if end > len(buffer):
            return 0, None
        if end > MOST_BYTES:
            return end, _read_header(buffer[:end])
        try:
            return frame.decode_frame(buffer)
        except Exception:  # noqa: BLE001  whatever a stranger's octets make pika raise
            return end, _read_header(buffer[:end])

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            self._told = error
        super()._proto_connection_lost(error)

    def _on_stream_terminated(self, error: Exception | None) -> None:
        self.ended_by = self._told or error or self._error or foreign.StreamLostError("abandoned")
        super()._on_stream_terminated(self.ended_by)


def _frame_end(buffer: bytes) -> int:
    """Say how long the frame is that a buffer begins with; longer than the buffer where that cannot be said yet."""
    return _AROUND_BYTES + int.from_bytes(buffer[3:_BEFORE_BYTES], "big") if len(buffer) > _BEFORE_BYTES else MOST_BYTES


def _read_header(octets: bytes) -> frame.Header:
    """Read a content header frame whatever is in it; what is wrong goes along as the properties' ``flaw``."""
    payload = octets[_BEFORE_BYTES:-1]
    content = read_content(payload[12:])
    properties = pika.BasicProperties(**content.properties)
    properties.flaw = f"properties: {content.flaw}" if content.flaw else ""
    return frame.Header(int.from_bytes(octets[1:3], "big"), int.from_bytes(payload[4:12], "big"), properties)


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
        self._publisher: Any = None
        self._confirms = Confirms()

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
        raise _most_telling(errors)

    @classmethod
    async def _connect(cls, address: Address, endpoint: Endpoint, name: str, heartbeat_s: int) -> Link:
        link = cls(address.user)
        opened: asyncio.Future[Any] = link._loop.create_future()
        link._amqp = GatheringConnection(
            _parameters(address, endpoint, name, heartbeat_s),
            on_open_callback=lambda _: _resolve(opened, None),
            on_open_error_callback=lambda amqp, error: fail(opened, _map(_cause(amqp.ended_by or error), address.tls)),
            on_close_callback=lambda _, error: link._on_gone(error),
            custom_ioloop=link._loop,
        )
        link._amqp.owner = address.owner
        try:
            await link._unless_closed(opened, CONNECT_TIMEOUT_S * 2)
            link._amqp.add_on_connection_blocked_callback(link._on_blocked)
            link._amqp.add_on_connection_unblocked_callback(lambda *_: link._on_unblocked())
            link._publisher = await link._open_channel(link._on_publisher_closed)
            link._publisher.add_on_return_callback(lambda _c, _m, given, _b: link._confirms.on_return(given.message_id))
            await link._call(link._publisher.confirm_delivery, link._on_confirm)
        except BaseException:
            link.abandon()
            raise
        return link

    def send(
        self, exchange: str, key: str, body: bytes, properties: Properties, *, mandatory: bool
    ) -> asyncio.Future[None]:
        """Write a message and return the future of its confirm: Unroutable, Refused or Disconnected else. Raises
        nothing: one that AMQP cannot carry, for the length of its key, is Unroutable."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self.closed.done():
            future.set_exception(Disconnected("the connection is closed"))
            return future
        message_id = properties.message_id or f"t{self._confirms.next_tag}"
        try:
            self._publisher.basic_publish(exchange, key, body, _render(properties, message_id, self.user), mandatory)
        except GONE as error:
            fail(future, _map(error))
        except Exception as error:
            # Nothing was written: pika renders a message before it writes of it.
            log.exception("cannot be rendered", extra={"key": key[:80]})
            fail(future, Unroutable(f"AMQP cannot carry such a message: {type(error).__name__}"))
        else:
            self._confirms.await_one(future, message_id, exchange, key)
        return future

    async def subscribe(self, subscription: Subscription, start: Callable[[Awaitable[None]], None]) -> None:
        """Consume a queue on a channel of its own. Raises QueueGone or Disconnected; the link is of no use then."""
        channel = await self._open_channel(lambda error: self._give_up(_map(error)))
        if subscription.bind_to:
            await self._declare_own(channel, subscription)
        await self._call(channel.basic_qos, prefetch_count=subscription.prefetch)
        channel.add_on_cancel_callback(lambda _: self._give_up(QueueGone(f"{subscription.queue} was deleted")))
        receive = receiver(subscription, receipts_of(channel, self._loop.call_soon), start)
        await self._call(channel.basic_consume, subscription.queue, receive)

    async def depth(self, queue: str) -> tuple[int, int]:
        """Count a queue's messages that nobody holds, and its consumers. Raises QueueGone or Disconnected."""
        channel = await self._open_channel(lambda error: self._give_up(_map(error)))
        found = await self._call(channel.queue_declare, queue, passive=True)
        return found.method.message_count, found.method.consumer_count

    async def lock(self, name: str) -> None:
        """Declare a queue that lives as long as this link, and is nobody else's. Raises Forbidden or Disconnected; the
        link is of no use then."""
        channel = await self._open_channel(lambda error: self._give_up(_map(error)))
        await self._call(channel.queue_declare, name, exclusive=True)

    async def subscribe_direct(self, handler: DeliveryHandler, start: Callable[[Awaitable[None]], None]) -> None:
        """Take answers by direct reply-to for what is published from now on."""
        nothing = Receipts(lambda _: lambda _: None, lambda _: None, lambda _: None)  # it is acknowledged as it comes
        receive = receiver(Subscription(queue=DIRECT_REPLY_TO, handler=handler), nothing, start)
        await self._call(self._publisher.basic_consume, DIRECT_REPLY_TO, receive, auto_ack=True)

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

    def _on_confirm(self, frame: Any) -> None:
        said = frame.method
        is_ack = isinstance(said, pika.spec.Basic.Ack)
        self._confirms.on_confirm(said.delivery_tag, is_ack=is_ack, multiple=said.multiple)

    def _on_publisher_closed(self, error: BaseException) -> None:
        """Fail for good those publishes alone that the broker names; of all others the outcome is unknown."""
        reason = _map(error)
        self._confirms.blame(reason)
        self._give_up(Disconnected(str(reason)))

    def _give_up(self, reason: BrokerError) -> None:
        """A channel broke: the whole link goes, so that one path recovers everything."""
        self._break(reason)
        if self._amqp.is_open:
            self._amqp.close()

    def _on_gone(self, error: BaseException) -> None:
        self._gone.set()
        self._break(_map(error))

    def _break(self, reason: BrokerError) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
            self.on_break()
        self._confirms.break_off(reason)


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


def _parameters(address: Address, endpoint: Endpoint, name: str, heartbeat_s: int) -> pika.ConnectionParameters:
    timeout_s = CONNECT_TIMEOUT_S if len(address.endpoints) == 1 else NEXT_TIMEOUT_S
    return pika.ConnectionParameters(
        host=endpoint.host,
        port=endpoint.port,
        ssl_options=_ssl_options(address.tls, endpoint),
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        heartbeat=heartbeat_s,
        socket_timeout=timeout_s,
        stack_timeout=timeout_s,
        blocked_connection_timeout=300,
        client_properties={"connection_name": name},
    )


def _ssl_options(tls: Tls | None, endpoint: Endpoint) -> pika.SSLOptions | None:
    return pika.SSLOptions(context_of(tls), name_at(tls, endpoint)) if tls else None


def _most_telling(errors: Sequence[tuple[Endpoint, BrokerError]]) -> BrokerError:
    """Give the word of one that answered before that of one that did not; of several what each of them said."""
    _, telling = max(errors, key=lambda pair: not isinstance(pair[1], Disconnected))
    if len(errors) == 1 and not isinstance(telling, Untrusted):
        return telling
    return type(telling)("; ".join(f"{endpoint}: {error}" for endpoint, error in errors))


def _render(properties: Properties, message_id: str, user: str) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type="application/x-msgpack",
        delivery_mode=2 if properties.persistent else 1,
        message_id=message_id,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=None if properties.expiration_ms is None else str(max(0, properties.expiration_ms)),
        headers=properties.headers,
        user_id=properties.sender or user,
    )


def _map(error: BaseException, tls: Tls | None = None) -> BrokerError:
    """The one place where pika's errors become ours."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return Untrusted(explain(error, tls))
    if isinstance(error, SpeaksTls):
        return Untrusted("it speaks TLS on that port: the credential needs a tls part, or another port")
    text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    if _is_login_refused(error):
        return LoginRefused(f"the broker refused the login: {text}")
    code = getattr(error, "reply_code", 0)
    if code == 530 and LIMIT_REACHED.search(getattr(error, "reply_text", "")):
        return Crowded(error.reply_text)  # type: ignore[attr-defined]
    if code == 404:
        return QueueGone(getattr(error, "reply_text", text))
    if code in (403, 405):
        return Forbidden(getattr(error, "reply_text", text))
    return Disconnected(text)


def _cause(error: BaseException) -> BaseException:
    """Dig out what the operating system said: of a connect that failed pika tells the names of its wrappings only."""
    wrapped = [getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args]
    inner = next((one for one in reversed(wrapped) if isinstance(one, BaseException)), None)
    return error if isinstance(error, OSError) or inner is None else _cause(inner)


def _is_login_refused(error: BaseException) -> bool:
    """Say whether the broker itself said so: a lost stream, a shutdown or a limit is no word on the credential."""
    if not isinstance(error, foreign.ConnectionClosedByBroker):
        return isinstance(error, foreign.AuthenticationError)
    if error.reply_code == 530:
        return bool(VHOST_REFUSED.search(error.reply_text)) and not PASSING.search(error.reply_text)
    return bool(error.reply_code == 403)


@contextmanager
def _ours() -> Iterator[None]:
    """Let a call of pika raise our errors: the connection may be closing, and we not have heard of it."""
    try:
        yield
    except GONE as error:
        raise _map(error) from error


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
