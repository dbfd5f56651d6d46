"""The one door out: a message becomes bytes, sealed where it shall be, and is sent under its own id.

Nothing else encodes a message. Three ways to send, as a carrier has them: ``publish`` once and wait for the confirm,
``deliver`` until it is confirmed, ``send`` at once and have the confirm's future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from broker.carrier import Sender
from broker.routes import Route
from schemas.codec import encode, fit
from schemas.envelope import Message, Reply
from schemas.signed import Signed

#: Seals a message: (the message, its exact bytes).
Seal = Callable[[Message, bytes], Signed]


def body_of(message: Message, seal: Seal | None = None) -> bytes:
    """Render a message. Raises DecodeError when it is longer than the wire allows, seal included."""
    body = encode(message)
    return body if seal is None else encode(seal(message, body))


def answer_of(answer: Reply, seal: Seal | None = None) -> bytes:
    """Render an answer; one that is longer than the wire allows becomes a failure that says so."""
    return body_of(fit(answer), seal)


async def publish(carrier: Sender, route: Route, message: Message, **options: Any) -> None:
    """Publish a message and wait for its confirm. Raises NotDelivered; DecodeError as ``body_of``."""
    await carrier.publish(*route, body_of(message), message_id=message.id, **options)


async def deliver(carrier: Sender, route: Route, message: Message, **options: Any) -> None:
    """Publish a message until it is confirmed. Raises Unroutable or Forbidden; DecodeError as ``body_of``."""
    await carrier.deliver(*route, body_of(message), message_id=message.id, **options)


def send(carrier: Sender, route: Route, message: Message, **options: Any) -> asyncio.Future[None]:
    """Publish a message at once and give its confirm's future. Raises DecodeError as ``body_of``, and nothing else."""
    return carrier.send(*route, body_of(message), message_id=message.id, **options)
