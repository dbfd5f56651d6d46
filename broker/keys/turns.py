"""Work of many principals at once, of each one after the other: one principal's trouble is its own.

What a principal asks for waits behind what it asked before, and behind nothing else. Knows neither messages nor the
broker; belongs to one loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

#: One piece of work; deals with its own failures.
Work = Callable[[], Awaitable[None]]


class Turns:
    """See the module. ``most_waiting`` bounds what one principal may have waiting."""

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._waiting: dict[str, deque[Work]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, principal: str, work: Work) -> bool:
        """Do ``work`` when what the principal asked before is done. False, and it is not taken, if too much waits."""
        waiting = self._waiting.get(principal)
        if waiting is None:
            self._waiting[principal] = deque([work])
            task = asyncio.create_task(self._run(principal), name=f"turns of {principal}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return True
        if len(waiting) >= self._most_waiting:
            return False
        waiting.append(work)
        return True

    async def close(self) -> None:
        """End what is at work and forget what waits. Idempotent."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, principal: str) -> None:
        waiting = self._waiting[principal]
        try:
            while waiting:
                await waiting.popleft()()
        finally:
            del self._waiting[principal]
