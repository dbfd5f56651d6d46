"""What an agent was told and what became of it, on disk before it is acknowledged.

An append-only file of msgpack records, each with its CRC; many records share one fdatasync (group commit). The file is
laid out in zeros ahead of its end, so that a sync writes data and no metadata, and a record cut short by a crash is
seen and ends the file. Ended entries are kept for ``keep_s``, longer than any deadline, so that a command that comes
again is answered and not run.
"""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import msgpack
from msgspec import Struct

#: The file grows by this much at a time, bytes of zeros.
EXTENT_BYTES = 1 << 20
#: Above this the file is written anew without what is no longer needed, bytes.
COMPACT_ABOVE_BYTES = 16 << 20
#: A record is never longer: a command's body is at most 1 MiB, and so is a reply's.
MAX_RECORD_BYTES = (1 << 20) + 4096


class Entry(Struct, kw_only=True):
    """A command and where it is. ``reply`` is set when it has ended; ``command`` is dropped then."""

    id: str
    sender: str
    at_ms: int
    command: bytes | None = None
    started: bool = False
    reply: bytes | None = None

    @property
    def ended(self) -> bool:
        """It has a final answer."""
        return self.reply is not None


class Journal:
    """See the module. Opened once, by one process; its methods belong to one event loop."""

    def __init__(self, path: Path, *, keep_s: float = 86400.0, wall: Callable[[], float] = time.time) -> None:
        self._path = path
        self._keep_ms = int(keep_s * 1000)
        self._wall = wall
        self._entries: dict[str, Entry] = {}
        self._inherited: list[Entry] = []
        self._buffer: list[bytes] = []
        self._durable: asyncio.Future[None] | None = None
        self._writing = False
        self._file: BinaryIO | None = None
        self._end = 0
        self._extent = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    def open(self) -> None:
        """Read what an earlier process left, then write the file anew. Idempotent after ``close``."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            for record in _records(self._path):
                self._replay(record)
        self._inherited = list(self._entries.values())
        self._rewrite()

    async def close(self) -> None:
        """Wait until all is durable and let go of the file."""
        while self._durable is not None:
            await asyncio.shield(self._durable)
        self._thread.shutdown()
        if self._file is not None:
            self._file.close()

    def get(self, command_id: str) -> Entry | None:
        """Give what is known of a command."""
        return self._entries.get(command_id)

    def unfinished(self) -> list[Entry]:
        """List the commands that an earlier process accepted and that have no answer, oldest first."""
        return [entry for entry in self._inherited if not entry.ended]

    async def accept(self, command_id: str, sender: str, command: bytes) -> Entry:
        """Note a command. When this returns it survives kill -9 and may be acknowledged."""
        entry = Entry(id=command_id, sender=sender, at_ms=self._now_ms(), command=command)
        self._entries[command_id] = entry
        await self._append(["accept", command_id, sender, entry.at_ms, command])
        return entry

    async def start(self, command_id: str) -> None:
        """Note that its effect may begin now; from here a restart answers ``interrupted``."""
        self._entries[command_id].started = True
        await self._append(["start", command_id])

    async def end(self, command_id: str, reply: bytes) -> None:
        """Note its final answer. When this returns it may be sent."""
        entry = self._entries[command_id]
        entry.reply, entry.command = reply, None
        await self._append(["end", command_id, reply])

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)

    async def _append(self, record: list[object]) -> None:
        self._buffer.append(_frame(record))
        if self._durable is None:
            self._durable = asyncio.get_running_loop().create_future()
        durable = self._durable
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._flush)
        await asyncio.shield(durable)

    def _flush(self) -> None:
        """Hand everything that has gathered to the thread; what gathers meanwhile goes with the next flush."""
        batch, self._buffer = self._buffer, []
        durable, self._durable = self._durable, None
        if durable is None:
            self._writing = False
            return
        written = self._thread.submit(self._write, b"".join(batch))
        written.add_done_callback(lambda done: durable.get_loop().call_soon_threadsafe(self._settle, durable, done))

    def _settle(self, durable: asyncio.Future[None], written: object) -> None:
        error = written.exception()  # type: ignore[attr-defined]
        if durable.cancelled():
            pass
        elif error is not None:
            durable.set_exception(error)
        else:
            durable.set_result(None)
        if self._end > COMPACT_ABOVE_BYTES:
            self._rewrite()
        self._flush()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise OSError(f"{self._path}: the journal is not open")
        if self._end + len(data) > self._extent:
            self._extent = self._end + len(data) + EXTENT_BYTES
            os.posix_fallocate(self._file.fileno(), 0, self._extent)
        os.pwrite(self._file.fileno(), data, self._end)
        os.fdatasync(self._file.fileno())
        self._end += len(data)

    def _replay(self, record: list[object]) -> None:
        match record:
            case ["accept", str(command_id), str(sender), int(at_ms), bytes(command)] if (
                command_id not in self._entries
            ):
                self._entries[command_id] = Entry(id=command_id, sender=sender, at_ms=at_ms, command=command)
            case ["start", str(command_id)] if command_id in self._entries:
                self._entries[command_id].started = True
            case ["end", str(command_id), bytes(reply)] if command_id in self._entries:
                self._entries[command_id].reply, self._entries[command_id].command = reply, None

    def _rewrite(self) -> None:
        """Put what is still needed into a new file and take the old one's place with it; both are whole throughout."""
        oldest = self._now_ms() - self._keep_ms
        self._entries = {i: e for i, e in self._entries.items() if not e.ended or e.at_ms >= oldest}
        fresh = self._path.with_suffix(".new")
        data = b"".join(_frame(record) for entry in self._entries.values() for record in _retell(entry))
        if self._file is not None:
            self._file.close()
        self._file = fresh.open("w+b", buffering=0)
        self._end = self._extent = 0
        self._write(data)
        fresh.replace(self._path)
        _sync_directory(self._path.parent)


def _retell(entry: Entry) -> Iterator[list[object]]:
    yield ["accept", entry.id, entry.sender, entry.at_ms, entry.command or b""]
    if entry.started:
        yield ["start", entry.id]
    if entry.reply is not None:
        yield ["end", entry.id, entry.reply]


def _frame(record: list[object]) -> bytes:
    packed: bytes = msgpack.packb(record)
    return bytes(msgpack.packb([zlib.crc32(packed), packed]))


def _records(path: Path) -> Iterator[list[object]]:
    """Read records until the zeros, or until the first that is not whole."""
    with path.open("rb") as file:
        unpacker = msgpack.Unpacker(file, max_buffer_size=4 * MAX_RECORD_BYTES)
        try:
            for frame in unpacker:
                if not isinstance(frame, list) or len(frame) != 2 or zlib.crc32(frame[1]) != frame[0]:
                    return
                yield msgpack.unpackb(frame[1])
        except (ValueError, TypeError, msgpack.UnpackException):
            return


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
