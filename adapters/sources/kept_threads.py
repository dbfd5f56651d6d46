"""Threads for calls that may never come back: no program waits for them at its end. They are kept for the next call.

To begin a thread its beginner waits until the system has run it, which on a busy machine takes milliseconds, and in
these a loop does nothing else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, cast

T = TypeVar("T")


class KeptThreads:
    """See the module: as many as there were calls under way at once. Belongs to one loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._wanted: SimpleQueue[Callable[[], bool] | None] = SimpleQueue()
        #: Threads that wait for a call; one that has never come back is not among them.
        self._idle = 0
        self._is_closed = False

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have ``work`` done; what it raises is the future's, and what it gives after that was cancelled is nobody's.
        Raises RuntimeError where the system has no thread to give."""
        loop = asyncio.get_running_loop()
        coming: asyncio.Future[T] = loop.create_future()
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=_serve, args=(self._wanted,), name=self._name, daemon=True).start()
        self._wanted.put(lambda: self._do(loop, coming, work))
        return coming

    def close(self) -> None:
        """Let the threads end: who is at a call, after it. Idempotent."""
        self._is_closed = True
        while self._idle:
            self._idle -= 1
            self._wanted.put(None)

    def _do(self, loop: asyncio.AbstractEventLoop, coming: asyncio.Future[T], work: Callable[[], T]) -> bool:
        """Do it, in a thread; says whether there may be more to do."""
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  whatever it is, the caller has it
            failure = _raisable(error)
        try:
            loop.call_soon_threadsafe(self._give, coming, result, failure)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return False
        return True

    def _give(self, coming: asyncio.Future[Any], result: T | None, failure: Exception | None) -> None:
        self._idle += 1
        if self._is_closed:
            self.close()
        if coming.cancelled():
            return
        if failure is None:
            coming.set_result(cast(T, result))
        else:
            coming.set_exception(failure)


def _raisable(error: BaseException) -> Exception:
    """Give what a future may raise: no end of a thread or an iterator, which are none of the caller's."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _serve(wanted: SimpleQueue[Callable[[], bool] | None]) -> None:
    while (work := wanted.get()) is not None and work():
        del work  # and what it gave
