"""Background tasks with an owner: none is forgotten by the loop, fails in silence or outlives who started it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class OwnedTasks:
    """The tasks of one ``owner``, by whose name the log knows them. Belongs to one loop; its length is how many run."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Start a task. Should it raise, the log has its traceback, whether or not anybody awaits it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def abort(self) -> None:
        """Ask all that run to end, and wait for none."""
        for task in self._tasks:
            task.cancel()

    async def cancel(self) -> None:
        """End all that run; when this returns they have ended. Idempotent."""
        self.abort()
        await self.finish()

    async def finish(self) -> None:
        """Wait until all that run now have ended, however they end."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", exc_info=error, extra={"owner": self._owner, "task": task.get_name()})


async def wholly(work: Coroutine[Any, Any, T]) -> T:
    """Do ``work`` to its end and give what it gives, whoever cancels the caller meanwhile: that is heeded after it."""
    task = asyncio.create_task(work)
    await wait_out(task)
    return task.result()


async def wait_out(task: asyncio.Task[Any]) -> None:
    """Wait until ``task`` has ended, however it ends, also when the caller is cancelled meanwhile: that is heeded after
    it."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
