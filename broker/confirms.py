"""The publishes of one link that the broker has not confirmed, and what becomes of each. Knows no AMQP library.

Every one of them gets an end: confirmed, unroutable, refused, forbidden, or of unknown outcome when the link breaks.
Only what the broker says of a message itself is final; all that it says of others, or of the link, is not.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from broker.errors import BrokerError, Disconnected, Forbidden, Nacked, NotDelivered, QueueGone, Unroutable


class _Unconfirmed(NamedTuple):
    future: asyncio.Future[None]
    message_id: str
    exchange: str
    key: str


class Confirms:
    """See the module. Tags are the broker's: a channel's publishes are numbered from 1."""

    def __init__(self) -> None:
        self.pending: dict[int, _Unconfirmed] = {}
        self._returned: set[str] = set()
        self.next_tag = 1
        self._first_unconfirmed = 1

    def await_one(self, future: asyncio.Future[None], message_id: str, exchange: str, key: str) -> None:
        """Note what was just published under ``next_tag``."""
        self.pending[self.next_tag] = _Unconfirmed(future, message_id, exchange, key)
        self.next_tag += 1

    def on_return(self, message_id: str) -> None:
        """The broker had no queue for it; its confirm comes after this."""
        self._returned.add(message_id)

    def on_confirm(self, tag: int, *, is_ack: bool, multiple: bool) -> None:
        """End one publish, or all up to it."""
        first = self._first_unconfirmed if multiple else tag
        for one in range(first, tag + 1):
            entry = self.pending.pop(one, None)
            if entry is not None:
                self._end(entry, is_ack=is_ack)
        if multiple:
            self._first_unconfirmed = tag + 1

    def blame(self, reason: BrokerError) -> None:
        """Fail for good the publishes that the broker names as the cause for which it closes the channel."""
        if not isinstance(reason, Forbidden | QueueGone):
            return
        final: NotDelivered = reason if isinstance(reason, Forbidden) else Unroutable(str(reason))
        for tag in [tag for tag, one in self.pending.items() if _is_meant(str(reason), one)]:
            fail(self.pending.pop(tag).future, final)

    def break_off(self, reason: BrokerError) -> None:
        """The link is gone: nobody will ever know of those that are left."""
        pending, self.pending = self.pending, {}
        for one in pending.values():
            fail(one.future, Disconnected(str(reason)))

    def _end(self, entry: _Unconfirmed, *, is_ack: bool) -> None:
        unroutable = entry.message_id in self._returned
        self._returned.discard(entry.message_id)
        if unroutable:
            fail(entry.future, Unroutable("the broker has no queue for it"))
        elif not is_ack:
            fail(entry.future, Nacked("the broker refused it: a queue that it goes to is full"))
        elif not entry.future.done():
            entry.future.set_result(None)


def fail(future: asyncio.Future[None], error: BrokerError) -> None:
    """Fail a future that may be done, or that nobody may be waiting for: that is no "exception was never retrieved"."""
    if not future.done():
        future.set_exception(error)
        future.exception()


def _is_meant(said: str, publish: _Unconfirmed) -> bool:
    """Say whether the broker's words, which it cuts at 255 bytes, are on that publish."""
    said = said.partition(" - ")[2].removesuffix("...")
    names = (
        f"access to topic '{publish.key}' in exchange '{publish.exchange}'",
        f"access to exchange '{publish.exchange}'",
        f"no exchange '{publish.exchange}'",
    )
    return any(said and (said.startswith(name) or name.startswith(said)) for name in names)
