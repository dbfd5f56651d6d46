"""The centre's time as an agent knows it: an offset from the last answered beat, on the monotonic clock.

A volunteer's wall clock is not believed. After a resume the offset is void until the next answer, since the monotonic
clock of a guest stands still while it is paused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class ServerClock:
    """Server time in ms since 1970, or None while it is not known."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_ms: float | None = None
        self._known = asyncio.Event()

    def learn(self, server_time_ms: int) -> None:
        """Take the time from an answer that just came. It is late by the way back, which only shortens deadlines."""
        self._offset_ms = server_time_ms - self._monotonic() * 1000
        self._known.set()

    def forget(self) -> None:
        """The monotonic clock may have stood still: what was learnt is void."""
        self._offset_ms = None
        self._known.clear()

    def now_ms(self) -> int | None:
        """Give the server's time, or None."""
        return None if self._offset_ms is None else int(self._offset_ms + self._monotonic() * 1000)

    async def wait_known(self) -> None:
        """Wait until an answer has told the time."""
        await self._known.wait()


def wall_clock() -> ServerClock:
    """A clock for processes of the centre itself: their own."""
    clock = ServerClock()
    clock.learn(int(time.time() * 1000))
    return clock
