"""Inputs by digest, fetched once and kept: two jobs that want the same file wait for the same transfer.

A file is under its digest only when its bytes have been verified. Only the agent can look in: payloads get what they
have asked for, under their own names. What was used longest ago goes first when the disk is needed for anything else;
what is being handed out stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from broker.transfer.leftovers import remove_left_behind

log = logging.getLogger(__name__)

#: Fetches the file of a digest into (target, partial).
Fetch = Callable[[str, Path, Path], Awaitable[None]]
#: Space on the disk that the cache leaves free whatever it is asked for, bytes; of a small disk, a tenth.
SPARE_BYTES = 512 << 20
#: A fetch that broke off can go on for this long, seconds; so many are kept at most.
KEEP_PARTIAL_S = 86400.0
MOST_PARTIALS = 16


class InputCache:
    """See the module. ``limit_bytes`` bounds what is kept between jobs, not what one job needs."""

    def __init__(self, directory: Path, fetch: Fetch, *, limit_bytes: int = 4 << 30) -> None:
        self._directory = directory
        self._fetch = fetch
        self._limit = limit_bytes
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._lent: Counter[str] = Counter()
        self._making_room = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    @contextlib.asynccontextmanager
    async def lend(self, sha256: str, size: int = 0) -> AsyncIterator[Path]:
        """Have a file of about ``size`` bytes, and its path for as long as the block lasts.

        Raises what the fetch raises; the next call tries again.
        """
        self._lent[sha256] += 1
        try:
            path = self._directory / sha256
            if path.exists():
                os.utime(path)
            else:
                await asyncio.shield(self._bringing(sha256, path, size))
            yield path
        finally:
            self._lent[sha256] -= 1
            self._lent += Counter()

    def make_room(self, need_bytes: int) -> None:
        """Let files go until so much of the disk is free, or nothing is left that may go. Blocking; raises nothing:
        who has no room then is told so by his own write. Several slots may be short of room at once."""
        with self._making_room:
            try:
                self._let_go(need_bytes)
            except OSError as error:
                log.error("no room made", extra={"path": str(self._directory), "why": str(error)})

    def _let_go(self, need_bytes: int) -> None:
        if next(self._directory.iterdir(), None) is None:
            return
        partials = self._directory.glob(".*")
        remove_left_behind(partials, now_s=time.time(), keep_s=KEEP_PARTIAL_S, most=MOST_PARTIALS)
        files = [(f.stat(), f) for f in self._directory.iterdir() if f.name[0] != "."]
        kept = sum(found.st_size for found, file in files if file.name not in self._lent)
        for found, file in sorted(files, key=lambda one: one[0].st_mtime):
            if kept <= self._limit and shutil.disk_usage(self._directory).free >= need_bytes:
                return
            if file.name not in self._lent:  # asked just before: a job may have taken it meanwhile
                kept -= found.st_size
                file.unlink(missing_ok=True)

    def reclaimable_bytes(self) -> int:
        """Give what would be free if everything that may go went. Blocking."""
        with contextlib.suppress(FileNotFoundError):  # another slot makes room just now
            return sum(file.stat().st_size for file in self._directory.iterdir() if file.name not in self._lent)
        return 0

    def _bringing(self, sha256: str, path: Path, size: int) -> asyncio.Task[None]:
        if sha256 not in self._coming:
            task = self._coming[sha256] = asyncio.create_task(self._bring(sha256, path, size))
            task.add_done_callback(lambda _: self._coming.pop(sha256, None))
        return self._coming[sha256]

    async def _bring(self, sha256: str, path: Path, size: int) -> None:
        spare = min(SPARE_BYTES, shutil.disk_usage(self._directory).total // 10)
        await asyncio.to_thread(self.make_room, size + spare)
        await self._fetch(sha256, path, self._directory / f".{sha256}.part")
        await asyncio.to_thread(path.chmod, 0o444)


def digest_of(content: bytes) -> str:
    """Give the SHA-256 of bytes in memory."""
    return hashlib.sha256(content).hexdigest()
