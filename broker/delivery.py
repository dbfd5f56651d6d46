"""What came from a queue, and how it is acknowledged; what is consumed. Knows no AMQP library, and decodes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from msgspec import Struct

#: Says whether what came is let in: (who pays for it, bytes, messages in it).
Gate = Callable[[str, int, int], bool]
#: Runs a handler's coroutine as a task that somebody owns.
Start = Callable[[Coroutine[Any, Any, None]], object]
#: Acknowledges what came (False), or rejects it (True).
Settle = Callable[[bool], None]


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


class Settlement:
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
        self, settlement: Settlement, method: Any, user_id: str, properties: Properties, body: bytes, whole: bytes
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
