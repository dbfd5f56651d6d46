"""What a payload prints, kept up to a limit: where there is more, its head and its tail, and a loud mark between.

Small streams never touch the disk. A full disk cuts a stream as its limit does.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import BinaryIO

from broker import durable

#: A stream up to this size stays in memory, bytes.
SMALL_BYTES = 16 * 1024


class CappedFile:
    """A stream of which ``limit`` bytes are kept, the first half of them and the last. Keeps nobody waiting."""

    def __init__(self, directory: Path, name: str, limit: int) -> None:
        """``name`` is what it is called in a completion, and that of its file, which is made only if it needs one."""
        self._directory, self.name = directory, name
        self.limit = limit
        #: What was kept, while it is small; empty once it went to the file.
        self.head = b""
        #: Bytes that were not kept.
        self.cut_bytes = 0
        self._room = limit - limit // 2
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._file: BinaryIO | None = None
        self._is_full = False
        self._is_closed = False

    def take(self, data: bytes) -> bool:
        """Keep what there is room for, at the head or as the newest of the tail."""
        kept = data[: self._room]
        self._room -= len(kept)
        if kept:
            self._keep(kept)
        if rest := data[len(kept) :]:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
            self._trim()
        return True

    @property
    def is_small(self) -> bool:
        """All of it is in ``head``; there is no file."""
        return self._file is None

    def close(self) -> None:
        """Take no more, and put mark and tail behind the head. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            if self.cut_bytes:
                self._keep(
                    f"\n*** TRUNCATED: {self.cut_bytes} bytes were not kept here (limit {self.limit}) ***\n".encode()
                )
            self._keep(b"".join(self._tail))
            self._tail.clear()
        if self._file is not None:
            self._file.close()

    def _trim(self) -> None:
        """Drop the oldest of the tail beyond its half of the limit."""
        while (surplus := self._tail_bytes - self.limit // 2) > 0:
            oldest = self._tail.popleft()
            if len(oldest) > surplus:
                self._tail.appendleft(oldest[surplus:])
            dropped = min(len(oldest), surplus)
            self._tail_bytes -= dropped
            self.cut_bytes += dropped

    def _keep(self, data: bytes) -> None:
        if self._is_full:
            self.cut_bytes += len(data)
        elif self._file is None and len(self.head) + len(data) <= SMALL_BYTES:
            self.head += data
        else:
            try:
                self._spill(data)
            except OSError:  # a full disk cuts the stream here, and nothing more can be said in it
                self.cut_bytes += len(data)
                self._is_full = True

    def _spill(self, data: bytes) -> None:
        if self._file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = (self._directory / self.name).open("wb", buffering=0)
            durable.write_all(self._file.fileno(), self.head)
            self.head = b""
        durable.write_all(self._file.fileno(), data)
