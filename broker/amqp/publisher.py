"""The channel on which a link publishes: pipelined, each publish a future that resolves on the broker's confirm."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pika

from broker.amqp.foreign import GONE, to_ours
from broker.confirms import Confirms, fail
from broker.delivery import Properties
from broker.errors import BrokerError, Disconnected, Unroutable

log = logging.getLogger(__name__)


class ChannelPublisher:
    """See the module. Publishes as ``user`` on ``channel``, which is put in confirm mode with ``on_confirm``."""

    def __init__(self, user: str) -> None:
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._confirms = Confirms()
        self._is_broken = False
        #: pika's channel; None before it is open.
        self.channel: Any = None

    def use(self, channel: Any) -> None:
        """Publish on this channel from now on."""
        self.channel = channel
        channel.add_on_return_callback(lambda _c, _m, given, _b: self._confirms.on_return(given.message_id))

    def send(
        self, exchange: str, key: str, body: bytes, properties: Properties, *, mandatory: bool
    ) -> asyncio.Future[None]:
        """Write a message and return the future of its confirm: Unroutable, Nacked or Disconnected else. Raises
        nothing: one that AMQP cannot carry, for the length of its key, is Unroutable."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self._is_broken:
            future.set_exception(Disconnected("the connection is closed"))
            return future
        message_id = properties.message_id or f"t{self._confirms.next_tag}"
        try:
            self.channel.basic_publish(exchange, key, body, _render(properties, message_id, self._user), mandatory)
        except GONE as error:
            fail(future, to_ours(error))
        except Exception as error:
            # Nothing was written: pika renders a message before it writes of it.
            log.exception("cannot be rendered", extra={"key": key[:80]})
            fail(future, Unroutable(f"AMQP cannot carry such a message: {type(error).__name__}"))
        else:
            self._confirms.await_one(future, message_id, exchange, key)
        return future

    def on_confirm(self, frame: Any) -> None:
        """Hear what the broker confirms or refuses."""
        said = frame.method
        is_ack = isinstance(said, pika.spec.Basic.Ack)
        self._confirms.on_confirm(said.delivery_tag, is_ack=is_ack, multiple=said.multiple)

    def blame(self, reason: BrokerError) -> None:
        """Fail for good those publishes alone that the broker names as what closed the channel."""
        self._confirms.blame(reason)

    def break_off(self, reason: BrokerError) -> None:
        """The link is broken: of what is not confirmed the outcome is unknown. Idempotent."""
        self._is_broken = True
        self._confirms.break_off(reason)


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
