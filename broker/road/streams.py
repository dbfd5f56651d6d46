"""Byte streams between a host's agent and a guest's: a unix socket on one machine, a port of virtio-serial in a VM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from broker.road.road import Connect, Stream

#: What a stream buffers before it stops reading, bytes.
_LIMIT_BYTES = 512 * 1024
#: How often it is looked whether the other end of a port is open, seconds: nothing tells.
_LOOK_S = 0.2


def to_socket(path: Path) -> Connect:
    """Connect to a unix socket, however long its path is. Raises OSError while nobody listens."""

    async def connect() -> Stream:
        with short_path(path) as name:
            return await asyncio.open_unix_connection(name, limit=_LIMIT_BYTES)

    return connect


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Give a name of a socket that the kernel takes: it allows 107 bytes."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


class Listener:
    """A unix socket, for this user alone, at which one end waits: who comes takes the place of who came before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._came: asyncio.Queue[Stream] = asyncio.Queue()
        self._last: asyncio.StreamWriter | None = None

    async def connect(self) -> Stream:
        """Wait for the next who comes. Raises OSError where the socket cannot be made."""
        if self._server is None:
            await self._listen()
        reader, self._last = await self._came.get()
        return reader, self._last

    async def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    async def _listen(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(self._path.lstat().st_mode):
                self._path.unlink()
        with short_path(self._path) as name:
            self._server = await asyncio.start_unix_server(self._on_client, name, limit=_LIMIT_BYTES)
        self._path.chmod(0o600)

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._last is not None:
            self._last.transport.abort()
        self._came.put_nowait((reader, writer))


def to_port(device: Path) -> Connect:
    """Open a port of virtio-serial, which only one program may have open. Raises OSError while that is another, or
    there is none."""

    async def connect() -> Stream:
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LIMIT_BYTES)
        try:
            taking = os.fdopen(os.dup(descriptor), "rb", buffering=0)
            giving = os.fdopen(descriptor, "wb", buffering=0)
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), taking)
            transport, protocol = await loop.connect_write_pipe(
                lambda: asyncio.streams.FlowControlMixin(loop=loop), giving
            )
        except BaseException:
            os.close(descriptor)
            raise
        return reader, asyncio.StreamWriter(transport, protocol, None, loop)

    return connect
