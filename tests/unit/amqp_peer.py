"""A broker's side of a connection, played by the test: it says what a real one says once in a hundred years."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from pika import frame, spec

from broker.address import Address
from schemas.endpoints import Endpoint

ABLE = {"capabilities": {"publisher_confirms": True, "basic.nack": True, "authentication_failure_close": True}}
START = spec.Connection.Start(0, 9, ABLE, "PLAIN AMQPLAIN", "en_US")
TUNE = spec.Connection.Tune(2047, 131072, 60)


class Peer:
    """A broker's side of one connection: reads what comes, answers what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._buffer = b""

    async def say(self, *methods: object, channel: int = 0) -> None:
        self.writer.write(b"".join(frame.Method(channel, method).marshal() for method in methods))
        await self.writer.drain()

    async def hear(self, kind: type) -> tuple[int, Any]:
        """Read until a method of that kind comes; give its channel and it."""
        while True:
            used, value = frame.decode_frame(self._buffer)
            self._buffer = self._buffer[used:]
            if value is None:
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError
                self._buffer += data
            elif isinstance(value, frame.Method) and isinstance(value.method, kind):
                return value.channel_number, value.method

    async def log_in(self) -> None:
        """Everything up to a publishing channel in confirm mode."""
        await self.reader.readexactly(8)
        await self.say(START)
        await self.hear(spec.Connection.StartOk)
        await self.say(TUNE)
        await self.hear(spec.Connection.Open)
        await self.say(spec.Connection.OpenOk())
        await self.open_channel()
        await self.answer(spec.Confirm.Select, spec.Confirm.SelectOk())

    async def open_channel(self) -> None:
        await self.answer(spec.Channel.Open, spec.Channel.OpenOk())

    async def answer(self, kind: type, answer: object) -> None:
        channel, _ = await self.hear(kind)
        await self.say(answer, channel=channel)


@asynccontextmanager
async def broker(serve: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[Address]:
    """Listen; each connection is served by ``serve`` and cut at its end."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(Peer(reader, writer))
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    yield Address(endpoints=(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]),), user="vm-a", password="x")
    server.close()


async def until_up(peer: Peer) -> None:
    await peer.log_in()
    await peer.hear(spec.Connection.CloseOk)
