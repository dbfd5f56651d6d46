"""Inputs by digest, fetched once and kept: two jobs that want the same file wait for the same transfer.

A file is under its digest only when its bytes have been verified; what was fetched longest ago goes first when the
cache is full.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

#: Fetches the file of a digest into (target, partial).
Fetch = Callable[[str, Path, Path], Awaitable[None]]


class InputCache:
    """See the module. ``limit_bytes`` bounds what is kept between jobs, not what one job needs."""

    def __init__(self, directory: Path, fetch: Fetch, *, limit_bytes: int = 4 << 30) -> None:
        self._directory = directory
        self._fetch = fetch
        self._limit = limit_bytes
        self._coming: dict[str, asyncio.Task[None]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    async def get(self, sha256: str) -> Path:
        """Have the file and give its path. Raises what the fetch raises; the next call tries again."""
        path = self._directory / sha256
        if not path.exists():
            task = self._coming.get(sha256)
            if task is None:
                task = self._coming[sha256] = asyncio.create_task(self._bring(sha256, path))
                task.add_done_callback(lambda _: self._coming.pop(sha256, None))
            await asyncio.shield(task)
        return path

    async def _bring(self, sha256: str, path: Path) -> None:
        await asyncio.to_thread(self._make_room)
        await self._fetch(sha256, path, self._directory / f".{sha256}.part")
        await asyncio.to_thread(path.chmod, 0o444)

    def _make_room(self) -> None:
        files = sorted((f for f in self._directory.iterdir() if f.name[0] != "."), key=lambda f: f.stat().st_atime)
        kept = sum(f.stat().st_size for f in files)
        for file in files:
            if kept <= self._limit:
                return
            kept -= file.stat().st_size
            file.unlink()


def digest_of(content: bytes) -> str:
    """Give the SHA-256 of bytes in memory."""
    return hashlib.sha256(content).hexdigest()
