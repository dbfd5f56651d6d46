"""The one door in: what came over the wire becomes deliveries, and a delivery a letter or a refusal.

Here a sender is vouched for by the broker's word, a bundle is taken apart, a body is decoded and, where it is sealed,
its seal is checked. Nothing else decodes a message, and nothing that a stranger sends makes it raise. Knows no AMQP
library.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from broker.delivery import Delivery, Gate, Properties, Settle, Settlement, Start, Subscription
from broker.routes import CALLS, UP, payer_of, sender_of
from schemas.codec import Label, decode, unbundle, unknown
from schemas.envelope import Message
from schemas.errors import DecodeError
from schemas.ids import Kind, kind_of
from schemas.signed import Signed

log = logging.getLogger(__name__)

#: Kinds of principal that send bundles.
BUNDLERS = frozenset({Kind.ADAPTER, Kind.VM})
#: Exchanges whose keys begin with the name of who writes there: the broker checks it.
_NAMED_BY_KEY = frozenset({UP, CALLS})
#: Stands for text that a sender gave as octets which are none.
_NO_TEXT = "properties: a name that is not UTF-8"


class Letter(Struct, frozen=True, kw_only=True):
    """A message, and who sent it, as the broker vouches for it."""

    sender: str
    kind: Kind
    message: Message


class Refusal(Struct, frozen=True, kw_only=True):
    """Why what came is no letter: the reason in a word, as it is counted, and in words for a person."""

    #: Empty where the broker vouches for nobody.
    sender: str = ""
    reason: str
    detail: str
    #: What it is called, where nothing is wrong with it but that its op is not known here.
    unknown: Label | None = None


#: Says what is wrong with a seal; empty: nothing. (what is sealed, who sent it)
Verify = Callable[[Signed, str], str]


def know_no_seal(signed: Signed, sender: str) -> str:
    """Refuse every seal: one that nobody can check is worth less than none."""
    return f"sealed by {signed.signer!r} with {signed.algorithm!r}: no such seal is known here"


def take_in(delivery: Delivery, verify: Verify = know_no_seal) -> Letter | Refusal:
    """Make a letter of a delivery, or say why it is none; settles nothing. Raises nothing.

    Who writes ``vc.up`` or ``vc.calls`` names himself by the key's first word too, and the broker checks it: the two
    are the same, or the sender is a guess. On other exchanges the broker's word on ``user_id`` is all there is.
    """
    sender = _vouched(delivery)
    kind = kind_of(sender)
    if kind is None:
        return Refusal(reason="foreign_key", detail=_foreign(delivery))
    if delivery.flaw:
        return Refusal(sender=sender, reason="undecodable", detail=delivery.flaw)
    try:
        return Letter(sender=sender, kind=kind, message=recall(delivery.body, sender, verify))
    except DecodeError as error:
        known = unknown(delivery.body)
        return Refusal(sender=sender, reason="undecodable", detail=error.reason, unknown=known)


def recall(body: bytes, sender: str = "", verify: Verify = know_no_seal) -> Message:
    """Decode a body that was kept since it came: by a journal, or among the dead letters. Raises DecodeError."""
    message = decode(body)
    if not isinstance(message, Signed):
        return message
    if flaw := verify(message, sender):
        raise DecodeError(flaw)
    inner = decode(message.body)
    if isinstance(inner, Signed):
        raise DecodeError("sealed twice: a seal covers a message, not another seal")
    return inner


def recall_all(body: bytes) -> list[Message]:
    """Decode every message of a body that may be a bundle. Raises DecodeError where one of them is none."""
    return [recall(one) for one in unbundle(body)]


def _vouched(delivery: Delivery) -> str:
    if delivery.exchange in _NAMED_BY_KEY:
        return sender_of(delivery.routing_key, delivery.user_id) or ""
    return delivery.user_id


def _foreign(delivery: Delivery) -> str:
    if delivery.exchange in _NAMED_BY_KEY:
        return "user_id is not the first word of the routing key"
    return f"user_id = {delivery.user_id[:64]!r} is no principal" if delivery.user_id else "it has no user_id"


def deliveries(settle: Settle, method: Any, properties: Any, body: bytes, bodies: Sequence[bytes]) -> list[Delivery]:
    """Make the deliveries of what came: its one body, or those of the bundle that it is."""
    flaw = getattr(properties, "flaw", "")
    settlement = Settlement(settle, len(bodies))
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
    if bytes in map(type, ids):
        texts = (None if isinstance(one, bytes) else one for one in ids)
        properties.message_id, properties.correlation_id, properties.reply_to, properties.user_id = texts
        flaw = flaw or _NO_TEXT
    if flaw:
        properties.flaw = flaw


class Settling(Protocol):
    """What settles the messages of one channel, by their tags."""

    def open(self, tag: int) -> Settle:
        """Give what settles a message that goes on to its reader."""

    def drop(self, tag: int) -> None:
        """Acknowledge one that nobody reads, now or soon."""


def receiver(subscription: Subscription, settling: Settling, start: Start) -> Callable[..., None]:
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
