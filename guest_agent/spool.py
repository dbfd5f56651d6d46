"""What a detached command prints, kept on disk up to a limit: its head and its tail, and how much was cut between.

Records of both streams in order, in a file for the head and in segments for the tail, of which the oldest go. It holds
nobody back. A full disk cuts as the limit does, and that is noted as soon as there is room. Who reads has a place of
his own, and is told what was cut where he stood.
"""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

from msgspec import Struct

from broker import durable, reserve
from schemas.execs import Stream

#: What is kept of one command, bytes: this much of the head, and as much of the tail.
HALF_BYTES = 8 << 20
#: A segment of the tail, bytes.
SEGMENT_BYTES = 1 << 20
#: Read at a time, bytes.
READ_BYTES = 64 * 1024
#: Before each record: what it is (a stream by its place, or the mark of a cut), and its length.
_HEADER = struct.Struct(">BI")
_STREAMS = (Stream.STDOUT, Stream.STDERR)
_CUT = 2
_COUNT = struct.Struct(">Q")


class Place(Struct):
    """Where a reader stands: in which file, at which byte of it, behind how much of the output."""

    file: int = 0
    offset: int = 0
    behind: int = 0


class Segment(Struct):
    """A file of the spool: the number of it, and where its output begins."""

    number: int
    begins: int
    path: Path


class Spool:
    """The output of one command. Written and read by one process, in one loop."""

    def __init__(self, directory: Path, *, half_bytes: int = HALF_BYTES, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Have it in ``directory``, which exists; what is there is of an agent before us, and is only read."""
        self._directory = directory
        self._half, self._segment = half_bytes, segment_bytes
        self._files = sorted((_read_name(path) for path in directory.glob("output-*")), key=lambda one: one.number)
        self._descriptor = -1
        self._size = self._printed = self._unsaid = 0
        self._waiting: set[asyncio.Future[None]] = set()
        #: Output that is no longer kept, bytes.
        self.cut_bytes = 0

    def put(self, stream: Stream, data: bytes) -> None:
        """Keep some output, if the disk takes it."""
        for start in range(0, len(data), READ_BYTES):
            self._put(stream, data[start : start + READ_BYTES])
        self._wake()

    def close(self) -> None:
        """Say what could not be said before, and write no more. Idempotent."""
        if self._descriptor >= 0 or self._unsaid:
            self._put(Stream.STDERR, b"")
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._wake()

    async def more(self) -> None:
        """Wait for more output, or its end."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def read(self, place: Place) -> list[tuple[Stream, bytes]]:
        """Give what is next at a place, and move it on; nothing where there is no more yet. Raises OSError."""
        while True:
            here = next((one for one in self._files if one.number >= place.file), None)
            if here is None:
                return []
            if here.number > place.file:
                missed = here.begins - place.behind
                place.file, place.offset, place.behind = here.number, 0, here.begins
                if missed > 0:
                    return [(Stream.STDERR, _mark(missed))]
            if pieces := self._read(here, place):
                return pieces
            if here is self._files[-1]:
                return []
            place.file, place.offset = place.file + 1, 0

    def _read(self, here: Segment, place: Place) -> list[tuple[Stream, bytes]]:
        with here.path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(READ_BYTES + 2 * _HEADER.size)
        pieces: list[tuple[Stream, bytes]] = []
        at = 0
        while len(data) - at >= _HEADER.size:
            kind, length = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + _HEADER.size + length]
            if len(body) < length or kind > _CUT:  # cut short by a kill, or the next read has it
                break
            at += _HEADER.size + length
            if kind == _CUT:
                (lost,) = _COUNT.unpack(body)
                pieces.append((Stream.STDERR, _mark(lost)))
                place.behind += lost
            elif body:
                pieces.append((_STREAMS[kind], body))
                place.behind += length
        place.offset += at
        return pieces

    def _put(self, stream: Stream, data: bytes) -> None:
        record = _HEADER.pack(_STREAMS.index(stream), len(data)) + data
        if self._unsaid:
            record = _HEADER.pack(_CUT, _COUNT.size) + _COUNT.pack(self._unsaid) + record
        begins = self._printed - self._unsaid
        self._printed += len(data)
        try:
            self._append(record, begins)
        except OSError:  # the disk is full
            self._unsaid += len(data)
            self.cut_bytes += len(data)
        else:
            self._unsaid = 0

    def _append(self, record: bytes, begins: int) -> None:
        reserve.demand(self._directory, len(record))
        most = self._half if len(self._files) <= 1 else self._segment
        if self._descriptor < 0 or self._size + len(record) > most:
            self._roll(begins)
        try:
            durable.write_all(self._descriptor, record, self._size)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(record)

    def _roll(self, begins: int) -> None:
        """Go on in a new file, and let the oldest of the tail go where there are enough."""
        number = self._files[-1].number + 1 if self._files else 0
        path = self._directory / f"output-{number}-{begins}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._size = descriptor, 0
        self._files.append(Segment(number, begins, path))
        while len(self._files) - 1 > max(1, self._half // self._segment):
            oldest, following = self._files[1], self._files[2]
            self.cut_bytes += following.begins - oldest.begins
            del self._files[1]
            oldest.path.unlink(missing_ok=True)

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def _mark(count: int) -> bytes:
    return f"\n*** TRUNCATED: {count} bytes of output were not kept here ***\n".encode()


def _read_name(path: Path) -> Segment:
    _, number, begins = path.name.split("-")
    return Segment(int(number), int(begins), path)


class SpoolSink:
    """One of the two outputs of a detached command. See ``Sink``."""

    def __init__(self, spool: Spool, stream: Stream) -> None:
        self._spool, self._stream = spool, stream

    def take(self, data: bytes) -> bool:
        """Keep output; holds nobody back."""
        self._spool.put(self._stream, data)
        return True
