"""A broker's end that keeps what is sent, and deliveries from anybody, for tests of adapters without a broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from broker.connection import Connection, Delivery, Properties
from schemas.codec import decode, encode
from schemas.envelope import Message

USER = "adapter-job-1"


class Wire:
    """Stands in for a connection whose link is up."""

    def __init__(self, user: str = USER) -> None:
        self.user = user
        self.is_up, self.links, self.up_since = True, 1, time.monotonic()
        self.on_up: list[Callable[[], None]] = []
        #: (exchange, key, body) of all that went out.
        self.sent: list[tuple[str, str, bytes]] = []

    @property
    def connection(self) -> Connection:
        return cast(Connection, self)

    def send(self, exchange: str, key: str, body: bytes, **_: Any) -> asyncio.Future[None]:
        self.sent.append((exchange, key, body))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def deliver(self, exchange: str, key: str, body: bytes, **options: Any) -> None:
        self.send(exchange, key, body, **options)

    def to(self, exchange: str) -> list[tuple[str, Message]]:
        """What went to an exchange, decoded, with its key."""
        return [(key, decode(body)) for where, key, body in self.sent if where == exchange]


class Post:
    """Stands in for a delivery; knows whether it was acknowledged."""

    def __init__(self, key: str, body: bytes | Message, user: str = "", message_id: str = "m") -> None:
        self.body = body if isinstance(body, bytes) else encode(body)
        self.routing_key, self.exchange = key, "vc.up"
        self.user_id = user or key.partition(".")[0]
        self.properties = Properties(message_id=message_id)
        self.redelivered, self.flaw = False, ""
        self.acked = self.rejected = 0
        self.whole = self.body
        self.is_spoilt = False

    @property
    def delivery(self) -> Delivery:
        return cast(Delivery, self)

    def spoil(self) -> bool:
        was_good, self.is_spoilt = not self.is_spoilt, True
        return was_good

    def ack(self) -> None:
        self.acked += 1

    def reject(self) -> None:
        self.rejected += 1


async def until(condition: Callable[[], object], patience_s: float = 5.0) -> None:
    """Wait for what another task does. Raises TimeoutError."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110  what is waited for happens outside this loop
            await asyncio.sleep(0.005)
