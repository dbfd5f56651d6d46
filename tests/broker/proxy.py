"""A TCP proxy that counts bytes, and cuts or freezes the link on command: what a bad line does to a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from broker.address import Address
from schemas.endpoints import Endpoint


class Proxy:
    """Forwards connections to where an address leads; ``cut`` breaks those that are open."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._target = (address.endpoints[0].host, address.endpoints[0].port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.up_bytes = 0
        self.down_bytes = 0
        self.cuts = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        #: Called after every piece with (bytes up, bytes down).
        self.watch: Callable[[int, int], None] = lambda up, down: None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def address(self) -> Address:
        """The same address, by way of this proxy."""
        return msgspec.structs.replace(self._address, endpoints=(Endpoint("127.0.0.1", self.port),))

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Let nothing through, and close nothing: what a stopped broker looks like."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let through what has gathered."""
        self._flowing.set()

    def cut(self) -> None:
        """Break every open connection at once, without goodbye."""
        self.cuts += 1
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._pump(reader, far_writer, up=True), self._pump(far_reader, writer, up=False))
        finally:
            self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        try:
            while data := await reader.read(65536):
                if up:
                    self.up_bytes += len(data)
                else:
                    self.down_bytes += len(data)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
                self.watch(self.up_bytes, self.down_bytes)
        except OSError:
            pass
        finally:
            writer.transport.abort()
