"""The byte stream that a road has just now: written to within a bound, and broken by whoever finds it misused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from broker.errors import Breach

#: What may wait to be read by the other end, bytes: what we say is bounded, but so must be what we answer.
MOST_UNREAD_BYTES = 16 << 20


class ByteStream(NamedTuple):
    """A way to the other end: both halves, and what closes them, whatever is still on its way."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    close: Callable[[], None]


#: Gives a stream to the other end; waits, or raises OSError, while there is none.
Connect = Callable[[], Awaitable[ByteStream]]


class Wire:
    """See the module. Without a stream nothing is written, and nothing broken."""

    def __init__(self) -> None:
        self._stream: ByteStream | None = None

    @property
    def is_clear(self) -> bool:
        """There is a stream, and all that was written to it is on its way."""
        return self._stream is not None and not self._unread_bytes(self._stream)

    def attach(self, stream: ByteStream) -> None:
        """Use this stream from now on."""
        self._stream = stream

    def close(self) -> None:
        """Close the stream. Idempotent."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def write(self, frame: bytes) -> None:
        """Write a frame, if it is one; an end that reads nothing is a breach."""
        if not frame or self._stream is None:
            return
        if self._unread_bytes(self._stream) > MOST_UNREAD_BYTES:
            self.breach(f"it reads nothing: {MOST_UNREAD_BYTES} bytes wait for it")
        else:
            self._stream.writer.write(frame)

    def breach(self, how: str) -> None:
        """Have whoever reads the stream find a Breach."""
        if self._stream is not None:
            self._stream.reader.set_exception(Breach(how))

    @staticmethod
    def _unread_bytes(stream: ByteStream) -> int:
        return stream.writer.transport.get_write_buffer_size()
