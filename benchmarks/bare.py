"""Bare pika on asyncio, as a peer uses it: one connection, one channel, confirms counted and not awaited one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from broker.address import read_address

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def url_of(credential: Path) -> str:
    """Give a credential in the form that Celery takes."""
    address = read_address(credential)
    return f"amqp://{address.user}:{address.password}@{address.where}/{address.vhost}"


class Bare:
    """A connection with one channel in confirm mode."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.channel: Any = None
        self._amqp: Any = None
        self._waiting: dict[int, Callable[[], None]] = {}
        self._oldest = 1
        self._next = 1

    async def open(self, credential: Path) -> None:
        """Connect."""
        address = read_address(credential)
        where, login = address.endpoints[0], pika.PlainCredentials(address.user, address.password)
        parameters = pika.ConnectionParameters(where.host, where.port, address.vhost, login)
        opened = self.loop.create_future()
        self._amqp = AsyncioConnection(parameters, on_open_callback=opened.set_result, custom_ioloop=self.loop)
        await opened
        opened = self.loop.create_future()
        self._amqp.channel(on_open_callback=opened.set_result)
        self.channel = await opened
        await self.ask(self.channel.confirm_delivery, self._on_confirm)

    async def ask(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method that answers by callback."""
        answered = self.loop.create_future()
        method(*args, callback=answered.set_result, **options)
        return await answered

    async def consume(self, queue: str, handler: Callable[..., None], prefetch: int) -> None:
        """Start a consumer."""
        await self.ask(self.channel.basic_qos, prefetch_count=prefetch)
        await self.ask(self.channel.basic_consume, queue, handler)

    def publish(
        self, queue: str, body: bytes, properties: Any = PERSISTENT, done: Callable[[], None] | None = None
    ) -> None:
        """Publish by the default exchange; ``done`` is called on the confirm."""
        self.channel.basic_publish("", queue, body, properties)
        if done is not None:
            self._waiting[self._next] = done
        self._next += 1

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            raise RuntimeError("the broker refused a message")
        for one in range(self._oldest if frame.method.multiple else tag, tag + 1):
            done = self._waiting.pop(one, None)
            if done is not None:
                done()
        if frame.method.multiple:
            self._oldest = tag + 1
