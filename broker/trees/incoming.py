"""One file of a tree on its way in: bytes go where its extents say, and nothing is written for its holes. Blocking.

A large one is marked as it becomes durable, by a name made of its SHA-256: whoever offers the same bytes goes on there.
"""

from __future__ import annotations

import hashlib
import os

from broker import durable
from broker.transfer.landing import MARK_EVERY_BYTES
from schemas.trees import TreeFile

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class IncomingFile:
    """See the module. Close it, or finish it."""

    def __init__(self, directory: int, entry: TreeFile, index: int) -> None:
        """Begin a file in ``directory``, or go on where the mark of a large one is."""
        self._directory, self.entry = directory, entry
        self.name = name_of(entry, index)
        self.length = entry.length
        self.taken = marked(directory, entry)
        self._durable = self.taken
        self._digest = hashlib.sha256()
        self._file = os.open(self.name, _FLAGS, durable.PRIVATE, dir_fd=directory)
        self._prepare()

    @property
    def left(self) -> int:
        """Bytes that are to come."""
        return self.length - self.taken

    def write(self, data: memoryview) -> None:
        """Take the next bytes. Raises OSError."""
        self._digest.update(data)
        for offset, piece in self._placed(data):
            if not durable.is_zeros(bytes(piece)):
                durable.write_all(self._file, piece, offset)
        self.taken += len(data)
        if self.taken - self._durable >= MARK_EVERY_BYTES and is_marked(self.entry):
            self.make_durable()

    def make_durable(self) -> None:
        """Have on the disk what has come of a large file, and mark it."""
        if is_marked(self.entry) and self._durable < self.taken:
            os.fdatasync(self._file)
            mark = os.open(mark_of(self.entry), _FLAGS, durable.PRIVATE, dir_fd=self._directory)
            try:
                durable.write_all(mark, b"%020d" % self.taken, 0)
            finally:
                os.close(mark)
            self._durable = self.taken

    def finish(self) -> bool:
        """Give it its mode and time, and close it. False: its bytes are not those of the manifest."""
        is_right = self._digest.digest() == self.entry.sha256
        if is_right:
            os.fchmod(self._file, self.entry.mode)
            os.utime(self._file, ns=(self.entry.mtime_ns, self.entry.mtime_ns))
        self.close()
        return is_right

    def close(self) -> None:
        """Let go; what is durable stays. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _prepare(self) -> None:
        """Read again what is marked; what is beyond it may not be what was sent."""
        try:
            left, end = self.taken, 0
            for start, length in self.entry.extents:
                count = min(left, length)
                end = start + count if count else end
                self._read_again(start, count)
                left -= count
            os.ftruncate(self._file, end)
            os.ftruncate(self._file, self.entry.size)
        except BaseException:
            self.close()
            raise

    def _read_again(self, start: int, count: int) -> None:
        while count > 0:
            data = os.pread(self._file, min(MARK_EVERY_BYTES, count), start) or bytes(min(MARK_EVERY_BYTES, count))
            self._digest.update(data)
            start, count = start + len(data), count - len(data)

    def _placed(self, data: memoryview) -> list[tuple[int, memoryview]]:
        """Say where in the file each part of the next bytes goes."""
        placed, offset = [], self.taken
        for start, length in self.entry.extents:
            if offset < length and data:
                count = min(length - offset, len(data))
                placed.append((start + offset, data[:count]))
                data, offset = data[count:], offset + count
            offset = max(0, offset - length)
        return placed


def is_marked(entry: TreeFile) -> bool:
    """Say whether a file is so large that it goes on where it broke off."""
    return entry.length >= 2 * MARK_EVERY_BYTES


def name_of(entry: TreeFile, index: int) -> bytes:
    """Name a file while it comes."""
    return entry.sha256.hex().encode() if is_marked(entry) else b"%d" % index


def mark_of(entry: TreeFile) -> bytes:
    """Name the mark of a large file."""
    return entry.sha256.hex().encode() + b".mark"


def marked(directory: int, entry: TreeFile) -> int:
    """Give how much of a large file is there and durable."""
    if not is_marked(entry):
        return 0
    try:
        mark = os.open(mark_of(entry), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return 0
    try:
        return min(int(os.read(mark, 20) or b"0"), entry.length)
    except ValueError:
        return 0
    finally:
        os.close(mark)
