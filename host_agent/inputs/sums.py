"""Sums of the files that this host hands out, of bytes whose SHA-256 was found right: a guest checks the cheap one.

A file is read once in the life of an agent, and again when a guest has found it damaged. In an emulated guest SHA-256
takes longer than all the rest of the way.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from pathlib import Path

from host_agent.inputs.store import KeptInput

_READ_BYTES = 1 << 20
#: Sums that are remembered; a file of which none is known is read again.
MOST_KNOWN = 10_000


class InputSums:
    """See the module. Belongs to one loop."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._reading: dict[str, asyncio.Task[int | None]] = {}
        self._read: dict[str, int] = {}

    def read_bytes(self, sha256: str) -> int:
        """Say how much of a file has been read so far."""
        return self._read.get(sha256, 0)

    def forget(self, sha256: str) -> None:
        """A guest has found the file damaged, or it is gone: read it before it is handed out again."""
        self._known.pop(sha256, None)

    async def of(self, kept: KeptInput) -> int | None:
        """Give a file's CRC-32; None where it has not the SHA-256 of its name. Raises OSError.

        Who asks while it is read waits for that; cancelled, he takes nothing from the others.
        """
        sha256 = kept.sha256
        if sha256 in self._known:
            return self._known[sha256]
        if sha256 not in self._reading:
            task = asyncio.create_task(asyncio.to_thread(self._sum, kept.path, sha256), name=f"sums of {sha256[:12]}")
            self._reading[sha256] = task
            task.add_done_callback(lambda _: self._ended(sha256, task))
        return await asyncio.shield(self._reading[sha256])

    def _sum(self, path: Path, sha256: str) -> int | None:
        digest, crc32, read = hashlib.sha256(), 0, 0
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
                crc32 = zlib.crc32(piece, crc32)
                read += len(piece)
                self._read[sha256] = read
        return crc32 if digest.hexdigest() == sha256 else None

    def _ended(self, sha256: str, task: asyncio.Task[int | None]) -> None:
        del self._reading[sha256]
        self._read.pop(sha256, None)
        if task.cancelled() or task.exception() is not None:
            return
        crc32 = task.result()
        if crc32 is not None:
            while len(self._known) >= MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[sha256] = crc32
