"""Work that is asked for more often than it can be done: it is done once more for all who asked meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from broker.daemon.tasks import OwnedTasks


class OneAtATime:
    """Does ``work`` as one of somebody's tasks, never twice at once, and once again after the last that asked."""

    def __init__(self, tasks: OwnedTasks, name: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._tasks, self._name, self._work = tasks, name, work
        self._task: asyncio.Task[None] | None = None
        self._is_due = False

    def ask(self) -> None:
        """Have it done from now on, however often this is called."""
        self._is_due = True
        if self._task is None or self._task.done():
            self._task = self._tasks.spawn(self._while_due(), name=self._name)

    async def _while_due(self) -> None:
        while self._is_due:
            self._is_due = False
            await self._work()
