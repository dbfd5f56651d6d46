"""Digests of the store's files, each read once: who asks again for a file that has not changed costs no reading.

A file is taken for the same as long as its size, its times and its place on the disk are. Those who want one at the
same time wait for one reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Files whose digests are remembered.
MOST_KNOWN = 10_000

#: A file's size and SHA-256.
Digest = tuple[int, str]


class Digests:
    """See the module. Belongs to one loop."""

    def __init__(self) -> None:
        self._known: dict[str, Digest] = {}
        self._coming: dict[str, asyncio.Task[Digest]] = {}

    async def of(self, key: str, read: Callable[[], Digest]) -> Digest:
        """Give the digest of a file; ``key`` tells its present bytes from all others', ``read`` blocks.

        Raises what ``read`` raises; the next call reads again.
        """
        known = self._known.get(key)
        if known is not None:
            return known
        if key not in self._coming:
            task = self._coming[key] = asyncio.create_task(asyncio.to_thread(read))
            task.add_done_callback(lambda done: self._came(key, done))
        return await asyncio.shield(self._coming[key])

    def _came(self, key: str, task: asyncio.Task[Digest]) -> None:
        del self._coming[key]
        if task.cancelled() or task.exception() is not None:
            return
        if len(self._known) >= MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[key] = task.result()
