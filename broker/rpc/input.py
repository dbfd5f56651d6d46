"""A command's standard input on its way: pulled from its source as far as the guest has room, numbered, in order.

The guest grants its first room when the command has begun, so that nothing comes before it. A piece is sent until it is
confirmed, under the same number, before the next is pulled; the guest drops what comes twice and tells of what is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from broker.backoff import backoff
from broker.errors import NotDelivered, Unroutable
from schemas.execs import INPUT_PIECE_BYTES, ExecInput, ExecInputWindow

#: Sends a message to the guest. Raises NotDelivered.
Cast = Callable[[ExecInput], Awaitable[None]]


class InputSource(Protocol):
    """Where an input comes from. Belongs to one loop."""

    async def read(self, most: int) -> bytes:
        """Give at most so many bytes, as soon as there are any; none at its end. Raises OSError."""

    def close(self) -> None:
        """Read no more of it. Idempotent."""


class BytesSource:
    """An input that is at hand. See ``InputSource``."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    async def read(self, most: int) -> bytes:
        """Give the next of it."""
        piece, self._rest = self._rest[:most], self._rest[most:]
        return bytes(piece)

    def close(self) -> None:
        """Let it go."""
        self._rest = memoryview(b"")


class InputFeed:
    """The console's side of one command's input. Belongs to one loop."""

    def __init__(self, call: str, source: InputSource, cast: Cast) -> None:
        self._call, self._source, self._cast = call, source, cast
        self._limit = self._sent = 0
        self._has_room = asyncio.Event()
        self._is_closed = False

    def allow(self, window: ExecInputWindow) -> None:
        """Let more go, up to the guest's limit; nothing more where the command reads no more."""
        self._is_closed |= window.is_closed
        self._limit = max(self._limit, window.limit_bytes)
        if self._is_closed or self._limit > self._sent:
            self._has_room.set()

    def close(self) -> None:
        """Read no more of the source. Idempotent."""
        self._source.close()

    async def run(self) -> None:
        """Feed it to the input's end, or until the command reads no more. Raises what the source raises."""
        number = 0
        try:
            while data := await self._pull():
                if not await self._send(ExecInput(call=self._call, number=number, data=data)):
                    return
                number += 1
                self._sent += len(data)
            if not self._is_closed:
                await self._send(ExecInput(call=self._call, number=number, data=b"", is_last=True))
        finally:
            self.close()

    async def _pull(self) -> bytes:
        """Wait for room, then for data to fill it."""
        while self._limit <= self._sent and not self._is_closed:
            self._has_room.clear()
            await self._has_room.wait()
        if self._is_closed:
            return b""
        return await self._source.read(min(INPUT_PIECE_BYTES, self._limit - self._sent))

    async def _send(self, piece: ExecInput) -> bool:
        """Send a piece until the broker has it. False: there is no such VM any more, which the call itself tells."""
        for wait_s in backoff(0.1, 2.0):
            try:
                await self._cast(piece)
                return True
            except Unroutable:
                return False
            except NotDelivered:
                await asyncio.sleep(wait_s)
        return False
