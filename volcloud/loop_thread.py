"""An event loop in a thread of its own, for callers that block.

Closing ends what any thread still waits for: nobody waits for a loop that has stopped. The thread is a daemon and is
waited for for a bounded time, so that no program hangs at its end because of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from broker.errors import Disconnected
from volcloud.errors import ClientNotOpen

T = TypeVar("T")

#: How long work that is cancelled at the end may take to put away what it has, seconds.
END_S = 5.0
#: How long the last word and the thread's end may take, seconds; each of them is bounded by itself.
CLOSE_S = 15.0


class LoopThread:
    """See the module. For any number of threads."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._blocking = concurrent.futures.ThreadPoolExecutor(thread_name_prefix=name)
        self._loop.set_default_executor(self._blocking)
        self._lock = threading.Lock()
        self._is_closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open: set[concurrent.futures.Future[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin to run a coroutine. Raises ClientNotOpen when this is closed."""
        with self._lock:
            if self._is_closing:
                work.close()
                raise ClientNotOpen
            future = asyncio.run_coroutine_threadsafe(self._kept(work), self._loop)
            self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; interrupted, it is cancelled. Raises ClientNotOpen when this is closed, and
        Disconnected when it is closed meanwhile."""
        future = self.start(work)
        try:
            return self.result(future)
        except KeyboardInterrupt:
            future.cancel()
            raise

    def result(self, future: concurrent.futures.Future[T]) -> T:
        """Wait for what was started. Raises Disconnected when this is closed meanwhile."""
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise Disconnected("the client was closed") from error

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel what is under way, run ``last``, and stop. Idempotent; returns within seconds."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        try:
            ending = asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
            with suppress(TimeoutError):
                ending.result(END_S + CLOSE_S)
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        for future in list(self._open):
            future.cancel()
        if not self._thread.is_alive():
            self._loop.close()
        # Not waited for: a callback may be held up by whoever reads what it writes.
        self._blocking.shutdown(wait=False, cancel_futures=True)

    async def _kept(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a coroutine of ours runs outside of any task")
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)
        await last()
