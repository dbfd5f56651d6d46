"""Calls that may hang, for a bounded time: a dead mount, or a library that waits for a server which says nothing.

Nothing can end such a call. It is left behind in its thread, and while too many are, no other is begun: what hangs
stays few threads however often it is tried again. Who waits can be interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

#: Calls that may hang at once before others are not begun.
MOST_HANGING = 8


class BoundedCalls:
    """Makes calls of one peer, each in a thread of its own. Thread-safe."""

    def __init__(self, most_hanging: int = MOST_HANGING) -> None:
        self._most = most_hanging
        self._lock = threading.Lock()
        #: Given up, and not back yet.
        self._hanging: set[Future[Any]] = set()

    def run(self, call: Callable[[], T], limit_s: float) -> T:
        """Give what a call gives, or raise what it raises. Raises TimeoutError once ``limit_s`` has passed, or at once
        where too many of before still hang; the call may then still be done."""
        with self._lock:
            if len(self._hanging) >= self._most:
                raise TimeoutError(f"{len(self._hanging)} calls from before still hang")
        future: Future[T] = Future()
        thread = threading.Thread(target=_fulfil, args=(future, call), daemon=True, name="bounded-call")
        try:
            thread.start()
        except RuntimeError as error:  # the system has none to give
            raise TimeoutError(f"no thread to make the call in: {error}") from error
        try:
            return future.result(limit_s)
        except TimeoutError:
            if future.done():  # it is the call's own
                return future.result()
            self._give_up(future)
            raise TimeoutError(f"no answer within {limit_s:g} s") from None

    def _give_up(self, future: Future[T]) -> None:
        with self._lock:
            self._hanging.add(future)
        future.add_done_callback(self._came_back)  # at once, if it is back by now

    def _came_back(self, future: Future[T]) -> None:
        with self._lock:
            self._hanging.discard(future)


def _fulfil(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except Exception as error:  # noqa: BLE001  whoever waits raises it
        future.set_exception(error)
