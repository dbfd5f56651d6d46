"""Byte streams between a host's agent and a guest's: a unix socket on one machine, a port of virtio-serial in a VM."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from broker.road.wire import ByteStream, Connect

#: What a stream buffers before it stops reading, bytes.
_LIMIT_BYTES = 512 * 1024


def to_socket(path: Path) -> Connect:
    """Connect to a unix socket, however long its path is. Raises OSError while nobody listens."""

    async def connect() -> ByteStream:
        with short_path(path) as name:
            return joined(*await asyncio.open_unix_connection(name, limit=_LIMIT_BYTES))

    return connect


def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ByteStream:
    """Give the two halves of a socket."""
    return ByteStream(reader, writer, writer.transport.abort)


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Give a name of a socket that the kernel takes: it allows 107 bytes."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


OnClient = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


async def listen(path: Path, on_client: OnClient) -> asyncio.Server:
    """Listen at a unix socket, for this user alone; one that an earlier process has left gives way. Raises OSError."""
    return await asyncio.start_unix_server(on_client, sock=_bound(path), limit=_LIMIT_BYTES)


def _bound(path: Path) -> socket.socket:
    """Make a socket that is ours alone and listens by the time that it has its name; a file that is none is left."""
    beside = path.with_name(f".{path.name}.new")
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "there is a file of that name, which is no socket", str(path))
    beside.unlink(missing_ok=True)
    made, before = socket.socket(socket.AF_UNIX), os.umask(0o177)
    try:
        with short_path(beside) as name:
            made.bind(name)
        made.listen()
        beside.replace(path)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


class Listener:
    """A unix socket, for this user alone, at which one end waits: who comes takes the place of who came before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._came: asyncio.Queue[ByteStream] = asyncio.Queue()
        self._last: ByteStream | None = None

    async def connect(self) -> ByteStream:
        """Wait for the next who comes. Raises OSError where the socket cannot be made."""
        if self._server is None:
            self._server = await listen(self._path, self._on_client)
        self._last = await self._came.get()
        return self._last

    async def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._last is not None:
            self._last.close()
        self._came.put_nowait(joined(reader, writer))


def to_port(find: Callable[[], Path | None]) -> Connect:
    """Open a port of virtio-serial, which only one program may have open. Raises OSError while that is another, or
    there is none."""

    async def connect() -> ByteStream:
        device = find()
        if device is None:
            raise FileNotFoundError("this machine has no such port")
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return await _on_descriptor(descriptor)
        finally:
            os.close(descriptor)

    return connect


async def _on_descriptor(descriptor: int) -> ByteStream:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=_LIMIT_BYTES)
    inward, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), _own(descriptor, "rb"))
    try:
        outward, flow = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop=loop), _own(descriptor, "wb")
        )
    except BaseException:
        inward.close()
        raise

    def close() -> None:
        inward.close()
        outward.abort()

    return ByteStream(reader, asyncio.StreamWriter(outward, flow, None, loop), close)


def _own(descriptor: int, mode: str) -> BinaryIO:
    """Give the same file under a descriptor of its own, which the transport closes."""
    return cast(BinaryIO, os.fdopen(os.dup(descriptor), mode, buffering=0))
