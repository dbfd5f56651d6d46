"""An append-only file of msgpack records, each with its CRC.

It is laid out in zeros ahead of its end, so that a sync writes data and no metadata, and a record cut short by a crash
is seen and ends the file. What is laid out last is a reserve, for what must be written on a full disk too. Blocking;
one call at a time.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import msgpack

from broker import durable

#: The file grows by this much at a time, bytes of zeros.
EXTENT_BYTES = 1 << 20
#: Of what is laid out this is kept for a full disk: two of the longest records, bytes.
RESERVE_BYTES = 2 << 20
#: A record is never longer: a command's body is at most 1 MiB, and so is a reply's.
MAX_RECORD_BYTES = (1 << 20) + 4096


class RecordFile:
    """See the module. ``read`` to the end, then ``rewrite`` or ``go_on``, then ``append``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._extent = 0
        #: How long it is without what is laid out ahead, bytes.
        self.end = 0

    def read(self) -> Iterator[list[object]]:
        """Give the records until the zeros, or until the first that is not whole; none where there is no file."""
        self.end = 0
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            unpacker = msgpack.Unpacker(file, max_buffer_size=4 * MAX_RECORD_BYTES)
            try:
                for found in unpacker:
                    if not isinstance(found, list) or len(found) != 2 or zlib.crc32(found[1]) != found[0]:
                        return
                    yield msgpack.unpackb(found[1])
                    self.end = unpacker.tell()
            except (ValueError, TypeError, msgpack.UnpackException):
                return

    def rewrite(self, data: bytes) -> None:
        """Put ``data`` into a new file and take the old one's place with it; both are whole throughout.

        Raises OSError, and the old one is in use as before.
        """
        fresh = self._path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        file = FileIO(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+")
        extent = len(data) + RESERVE_BYTES + EXTENT_BYTES
        try:
            with durable.naming(fresh):
                os.posix_fallocate(file.fileno(), 0, extent)
                _put(file, data, 0)
            fresh.replace(self._path)
        except BaseException:
            file.close()
            fresh.unlink(missing_ok=True)
            raise
        old, self._file, self.end, self._extent = self._file, file, len(data), extent
        if old is not None:
            old.close()
        durable.sync_directory(self._path.parent)

    def go_on(self) -> None:
        """Use the file as it was read: a full disk takes no new one. Raises OSError; FileNotFoundError where there is
        none."""
        with durable.naming(self._path):
            file = FileIO(os.open(self._path, os.O_RDWR | os.O_CLOEXEC), "r+")
            size = os.fstat(file.fileno()).st_size
            # What is behind the last whole record must not be read together with what comes.
            torn = os.pread(file.fileno(), size - self.end, self.end).rstrip(b"\0")
            _put(file, bytes(len(torn)), self.end)
        self._file, self._extent = file, size

    def append(self, new: bytes, ending: bytes) -> OSError | None:
        """Write records durably. When it raises OSError, nothing of them is left where a reader would find it.

        ``ending`` may take of the reserve. ``new`` may not: where that would be so it gives why it was left out.
        """
        if self._file is None:
            raise OSError(f"{self._path}: the journal is not open")
        refused = self._lay_out(self._file, self.end + len(new) + len(ending))
        data = ending if refused else new + ending
        if refused is not None and self.end + len(data) > self._extent:
            raise refused
        if data:
            self._write(self._file, data)
        return refused

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._file is not None:
            self._file.close()

    def _write(self, file: FileIO, data: bytes) -> None:
        try:
            with durable.naming(self._path):
                _put(file, data, self.end)
        except OSError:
            self._extent = self.end
            os.ftruncate(file.fileno(), self.end)
            raise
        self.end += len(data)

    def _lay_out(self, file: FileIO, end: int) -> OSError | None:
        """See to a reserve behind ``end``; give what kept the disk from it. What was laid out before stays."""
        if end + RESERVE_BYTES <= self._extent:
            return None
        wanted = end + RESERVE_BYTES + EXTENT_BYTES
        try:
            with durable.naming(self._path):
                os.posix_fallocate(file.fileno(), 0, wanted)
        except OSError as error:
            os.ftruncate(file.fileno(), self._extent)
            return error
        self._extent = wanted
        return None


def frame(record: list[object]) -> bytes:
    """Put a record as it stands in the file."""
    packed: bytes = msgpack.packb(record)
    return bytes(msgpack.packb([zlib.crc32(packed), packed]))


def _put(file: FileIO, data: bytes, at: int) -> None:
    durable.write_all(file.fileno(), data, at)
    os.fdatasync(file.fileno())
