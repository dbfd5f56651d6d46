"""What comes from a queue, taken apart where it is a bundle, and how it is acknowledged. Knows no AMQP library."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from broker.routes import payer_of
from schemas.codec import decode, unbundle
from schemas.envelope import Message
from schemas.errors import DecodeError
from schemas.ids import Kind, kind_of

log = logging.getLogger(__name__)

#: Kinds of principal that send bundles.
BUNDLERS = frozenset({Kind.ADAPTER, Kind.VM})
#: Says whether what came is let in: (who pays for it, bytes, messages in it).
Gate = Callable[[str, int, int], bool]
#: Acknowledges what came (False), or rejects it (True).
Settle = Callable[[bool], None]
#: Stands for text that a sender gave as octets which are none.
_NO_TEXT = "properties: a name that is not UTF-8"


class Properties(Struct, frozen=True, kw_only=True):
    """The AMQP properties that we use; ``user_id`` is the connection's own or ``sender``, checked by the broker."""

    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    persistent: bool = True
    expiration_ms: int | None = None
    headers: dict[str, Any] | None = None
    #: In whose name it is sent, by one whom the broker lets speak for others; None: the connection's own.
    sender: str | None = None


class _Settlement:
    """The one acknowledgement that the messages of a bundle share: given with the last of them. One that was rejected
    takes the bundle to the dead letters; the others have had their effect, and have it only once."""

    __slots__ = ("_left", "_rejected", "_settle", "is_spoilt")

    def __init__(self, settle: Settle, messages: int) -> None:
        self._settle, self._left, self._rejected = settle, messages, False
        self.is_spoilt = False

    def settle(self, *, rejected: bool) -> None:
        self._left -= 1
        self._rejected |= rejected
        if not self._left:
            self._settle(self._rejected)


class Delivery:
    """A message that came, and the means to acknowledge it. Acting on one whose channel is gone does nothing: it
    will be delivered again. The messages of a bundle come as deliveries of their own."""

    __slots__ = (
        "_settlement", "body", "exchange", "flaw", "is_settled", "properties", "redelivered", "routing_key", "user_id",
        "whole",
    )  # fmt: skip

    def __init__(
        self, settlement: _Settlement, method: Any, user_id: str, properties: Properties, body: bytes, whole: bytes
    ) -> None:
        self._settlement = settlement
        self.is_settled = False
        self.body = body
        #: What came over the wire: the body, or the bundle that it is of.
        self.whole = whole
        self.exchange: str = method.exchange
        self.routing_key: str = method.routing_key
        self.redelivered: bool = method.redelivered
        #: The sender, checked by the broker; empty when it said nothing.
        self.user_id = user_id
        self.properties = properties
        #: What cannot be read beside the body; empty: nothing. Such a message is nobody's to act on.
        self.flaw = ""

    def read(self) -> Message:
        """Decode it. Raises DecodeError saying what is wrong with it, the body or what came beside it; nothing else."""
        if self.flaw:
            raise DecodeError(self.flaw)
        return decode(self.body)

    def spoil(self) -> bool:
        """Note that it cannot be taken. True for the first of its body: one dead letter, one word of it, is enough."""
        was_good, self._settlement.is_spoilt = not self._settlement.is_spoilt, True
        return was_good

    def ack(self) -> None:
        """Tell the broker to forget it. Idempotent, as ``reject`` is: the first of them counts."""
        self._settle(rejected=False)

    def reject(self) -> None:
        """Send it to the dead letters."""
        self._settle(rejected=True)

    def _settle(self, *, rejected: bool) -> None:
        if not self.is_settled:
            self.is_settled = True
            self._settlement.settle(rejected=rejected)


def deliveries(settle: Settle, method: Any, properties: Any, body: bytes, bodies: Sequence[bytes]) -> list[Delivery]:
    """Make the deliveries of what came: its one body, or those of the bundle that it is."""
    flaw = getattr(properties, "flaw", "")
    settlement = _Settlement(settle, len(bodies))
    ours = Properties(
        message_id=properties.message_id,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        persistent=properties.delivery_mode == 2,
        headers=properties.headers,
    )
    made = [Delivery(settlement, method, properties.user_id or "", ours, one, body) for one in bodies]
    if flaw:
        for delivery in made:
            delivery.flaw = flaw
    return made


def _apart(properties: Any, body: bytes) -> list[bytes]:
    """Take a bundle apart. Only adapters and VMs send them: what else looks like one stays whole, and unreadable."""
    return unbundle(body) if kind_of(properties.user_id or "") in BUNDLERS else [body]


def _make_text(method: Any, properties: Any) -> None:
    """pika leaves octets that are no text as they are: put what stands for them in their place, and note the flaw."""
    flaw = getattr(properties, "flaw", "")
    if isinstance(method.routing_key, bytes):
        method.routing_key, flaw = method.routing_key.decode(errors="replace"), flaw or _NO_TEXT
    ids = (properties.message_id, properties.correlation_id, properties.reply_to, properties.user_id)
    if any(isinstance(one, bytes) for one in ids):
        one_by_one = (None if isinstance(one, bytes) else one for one in ids)
        properties.message_id, properties.correlation_id, properties.reply_to, properties.user_id = one_by_one
        flaw = flaw or _NO_TEXT
    if flaw:
        properties.flaw = flaw


#: Called for each delivery; a coroutine is run as a task.
DeliveryHandler = Callable[[Delivery], Awaitable[None] | None]


class Subscription(Struct, frozen=True, kw_only=True):
    """What to consume. ``bind_to`` set: declare the queue as ours alone first, and bind it to (exchange, key)."""

    queue: str
    handler: Any
    prefetch: int = 100
    bind_to: tuple[str, str] | None = None
    #: Bytes that an exclusive queue may hold.
    max_bytes: int = 16 << 20
    #: What comes may be bundles.
    bundles: bool = False
    #: What comes a second time is thrown away unread, because its sender says it again anyway: whatever became of its
    #: first reader is not tried on the next one. For classic queues, whose deliveries nobody counts.
    once: bool = False
    #: Judges what comes before anything of it is decoded; None: all is let in.
    gate: Gate | None = None


class Settling(Protocol):
    """What settles the messages of one channel, by their tags."""

    def open(self, tag: int) -> Settle:
        """Give what settles a message that goes on to its reader."""

    def drop(self, tag: int) -> None:
        """Acknowledge one that nobody reads, now or soon."""


def receiver(
    subscription: Subscription, settling: Settling, start: Callable[[Awaitable[None]], None]
) -> Callable[..., None]:
    """Give what the AMQP library calls with a message: (channel, method, properties, body).

    It raises nothing: that would end the link, for what one message is. What its handler leaves broken is rejected.
    """
    handler, bundles, once = subscription.handler, subscription.bundles, subscription.once
    gate = subscription.gate

    def receive(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
        _make_text(method, properties)
        bodies = _apart(properties, body) if bundles else [body]
        if (once and method.redelivered) or not _is_let_in(gate, method, properties, len(body), len(bodies)):
            settling.drop(method.delivery_tag)
            return
        for delivery in deliveries(settling.open(method.delivery_tag), method, properties, body, bodies):
            try:
                awaitable = handler(delivery)
            except Exception:
                log.exception("handler failed", extra=_whose(delivery))
                delivery.reject()
            else:
                if awaitable is not None:
                    start(_guarded(awaitable, delivery))

    return receive


def _is_let_in(gate: Gate | None, method: Any, properties: Any, size_bytes: int, messages: int) -> bool:
    if gate is None:
        return True
    return gate(payer_of(method.exchange, method.routing_key, properties.user_id or ""), size_bytes, messages)


async def _guarded(work: Awaitable[None], delivery: Delivery) -> None:
    """Its message is settled whatever happens: one that breaks a handler would break the next one too."""
    try:
        await work
    except Exception:
        log.exception("handler failed", extra=_whose(delivery))
        delivery.reject()


def _whose(delivery: Delivery) -> dict[str, str]:
    return {"sender": delivery.user_id, "key": delivery.routing_key}
