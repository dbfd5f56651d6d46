"""Our standard input as the input of commands in VMs: of one, or of several, to each of which all of it goes."""

from __future__ import annotations

import asyncio
import os
import stat

from broker.daemon.tasks import OwnedTasks
from broker.rpc.input import InputSource

#: Bytes read at a time, and pieces that wait for the slowest of several commands.
READ_BYTES, MOST_WAITING = 64 * 1024, 4


def is_given(descriptor: int = 0) -> bool:
    """Say whether somebody gave us an input that is no terminal: a pipe, a socket, a file, /dev/null."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return not os.isatty(descriptor)


class StandardInput:
    """An input by its descriptor. See ``InputSource``. It is read only when a command has room, so that nothing of it
    is taken that nobody reads."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor

    async def read(self, most: int) -> bytes:
        """Wait for some of it, and give that."""
        if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            return await asyncio.to_thread(os.read, self._descriptor, most)
        while True:
            await self._readable()
            try:
                return os.read(self._descriptor, most)
            except BlockingIOError:  # somebody else has taken it
                continue

    def close(self) -> None:
        """Leave it to whoever gave it."""

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        try:
            loop.add_reader(self._descriptor, _settle, ready)
        except PermissionError:  # of a kind that never keeps anybody waiting, such as /dev/null
            return
        try:
            await ready
        finally:
            loop.remove_reader(self._descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class SharedInput:
    """One input for several readers: each gets all of it, and the slowest sets the pace. One that stops holds up none.
    Belongs to one loop, once somebody reads."""

    def __init__(self, source: InputSource) -> None:
        self._source = source
        self._readers: list[_Reader] = []
        self._pumping = OwnedTasks("standard input")

    def reader(self) -> InputSource:
        """Give one more reader; before anybody reads."""
        reader = _Reader(self)
        self._readers.append(reader)
        return reader

    def start(self) -> None:
        """Begin to read. Idempotent."""
        if not self._pumping:
            self._pumping.spawn(self._pump())

    def stop_if_unread(self) -> None:
        """End it when nobody reads any more."""
        if all(reader.is_closed for reader in self._readers):
            self._pumping.abort()

    async def _pump(self) -> None:
        try:
            while data := await self._source.read(READ_BYTES):
                for reader in self._readers:
                    await reader.put(data)
        except OSError as error:
            for reader in self._readers:
                await reader.put(error)
        for reader in self._readers:
            await reader.put(b"")


class _Reader:
    """One of several. See ``InputSource``."""

    def __init__(self, shared: SharedInput) -> None:
        self._shared = shared
        self._waiting: asyncio.Queue[bytes | OSError] = asyncio.Queue(MOST_WAITING)
        self._rest = b""
        self._is_started = False
        self.is_closed = False

    async def put(self, data: bytes | OSError) -> None:
        """Give it some, when it has room."""
        if not self.is_closed:
            await self._waiting.put(data)

    async def read(self, most: int) -> bytes:
        """Wait for some of it, and give that."""
        if not self._is_started:
            self._is_started = True
            self._shared.start()
        if not self._rest:
            data = await self._waiting.get()
            if isinstance(data, OSError):
                raise data
            self._rest = data
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece

    def close(self) -> None:
        """Hold up nobody any more."""
        self.is_closed = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._shared.stop_if_unread()
