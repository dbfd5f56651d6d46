"""Deliveries from anybody, for tests of who reads them."""

from __future__ import annotations

from broker.delivery import Delivery, Properties, Settlement
from schemas.codec import encode
from schemas.envelope import Message


class _Method:
    """A method frame of a message to the centre."""

    exchange, redelivered = "vc.up", False

    def __init__(self, key: str) -> None:
        self.routing_key = key


class Post:
    """A delivery, and how often it was acknowledged or rejected."""

    def __init__(self, key: str, body: bytes | Message, user: str = "", message_id: str = "m") -> None:
        body = body if isinstance(body, bytes) else encode(body)
        self.acked = self.rejected = 0
        sender, properties = user or key.partition(".")[0], Properties(message_id=message_id)
        self.delivery = Delivery(Settlement(self._settle, 1), _Method(key), sender, properties, body, body)

    def _settle(self, rejected: bool) -> None:
        if rejected:
            self.rejected += 1
        else:
            self.acked += 1
