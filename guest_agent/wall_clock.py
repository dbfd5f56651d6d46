"""The wall clock of a VM of ours, and whether it is known to be right.

While a VM is paused, saved or kept in a snapshot its clocks stand still, and nothing in it tells. Its host does: by the
host's clock more time has gone by than by ours. The clock is then put forward by that at once, and is in doubt until
the centre has told the time; a job that comes meanwhile waits. Only for a guest that is root in a machine of its own;
the clock of a volunteer's host is none of ours.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

#: A clock that is off by less is left alone, seconds.
NEAR_S = 0.5
#: An answer that took longer tells no time, seconds: by half of it the time may be wrong.
FRESH_S = 1.0
#: Where answers take long, each of these is allowed so much more than the one before: some time is better than none.
MORE = 1.5


class WallClock:
    """See the module. ``is_ours`` False: it is somebody else's, is never set, and is never in doubt."""

    def __init__(self, *, is_ours: bool = True) -> None:
        self._is_ours = is_ours and os.geteuid() == 0
        self._sure = asyncio.Event()
        self._fresh_s = FRESH_S
        #: Called when it comes to be in doubt: what was known of the time is void, and the centre is to be asked.
        self.on_doubt: list[Callable[[], None]] = []
        if not self._is_ours:
            self._sure.set()

    @property
    def is_sure(self) -> bool:
        """Whether it is right, as far as anybody knows."""
        return self._sure.is_set()

    async def wait_sure(self) -> None:
        """Wait until it is right. The centre is asked again and again meanwhile."""
        await self._sure.wait()

    def doubt(self) -> None:
        """It may have stood still: ask the centre before a job is run by it."""
        if self._is_ours:
            self._sure.clear()
            for callback in self.on_doubt:
                callback()

    def stood_still(self, seconds: float, host_ms: int) -> None:
        """It has, for so long by the host's word, which was said at ``host_ms`` of the host's clock.

        The host's clock itself may be wrong; but what brings ours no nearer to it was a word that came late.
        """
        if not self._is_ours:
            return
        off_s = host_ms / 1000 - time.time()
        if abs(off_s - seconds) < abs(off_s):
            _set(time.time() + seconds, seconds)
        self.doubt()

    def follow(self, server_time_ms: int, took_s: float) -> None:
        """Set it to the centre's time, which came with an answer that took so long, if it is off."""
        if not self._is_ours:
            return
        if took_s > self._fresh_s:
            self._fresh_s *= MORE
            return
        now_s = server_time_ms / 1000 + took_s / 2
        off_s = now_s - time.time()
        if abs(off_s) > max(NEAR_S, took_s / 2):
            _set(now_s, off_s)  # one that cannot be set is left: no job is to wait for it for ever
        self._fresh_s = FRESH_S
        self._sure.set()


class HostsWord:
    """Tells from what a host says of the time for how long we stood still. Pure."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None

    def hear(self, host_ms: int, monotonic_s: float) -> float:
        """Give for how long we stood still since its last word, seconds; 0 for less than can be told."""
        ahead_s = host_ms / 1000 - monotonic_s
        stood_s = 0.0 if self._ahead_s is None else ahead_s - self._ahead_s
        if self._ahead_s is None or stood_s > 0:
            self._ahead_s = ahead_s  # a word that came late says less, and is not remembered
        return stood_s if stood_s > NEAR_S else 0.0


def _set(to_s: float, by_s: float) -> None:
    try:
        time.clock_settime(time.CLOCK_REALTIME, to_s)
    except OSError as error:
        log.warning("clock not set", extra={"off_s": round(by_s, 1), "why": str(error)})
    else:
        log.info("clock set", extra={"by_s": round(by_s, 1)})
