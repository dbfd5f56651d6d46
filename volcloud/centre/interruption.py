"""What ends a run from outside: a signal, the end of whoever started it, the loss of its directory.

A run in the foreground belongs to its starter: where that is killed (a time limit, a closed shell) the run ends in
order and leaves nothing. ``nohup`` means what it says: then neither a hang-up nor the starter's end is heeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from volcloud.centre.stopping import Say

#: How often directory and starter are looked at, seconds.
LOOK_S = 1.0


class Interruption:
    """Why a run ends, and the run it cancels; the first reason counts."""

    def __init__(self, work: asyncio.Future[Any], say: Say) -> None:
        self._work, self._say = work, say
        #: Why it ends; empty as long as nobody has ended it.
        self.reason = ""
        #: The signal that ended it; 0 for another reason.
        self.signal = 0

    def end(self, reason: str, number: int = 0) -> None:
        """End the run. Later reasons change nothing."""
        if self.reason:
            return
        self.reason, self.signal = reason, number
        self._say(f"ending: {reason}")
        self._work.cancel()

    def on_signal(self, number: signal.Signals) -> None:
        """End the run because of a signal."""
        self.end(f"{number.name} came", number)


@asynccontextmanager
async def ended_from_outside(
    work: asyncio.Future[Any], directory: Path, say: Say, *, follows_starter: bool
) -> AsyncIterator[Interruption]:
    """Let signals, and the loss of the directory or of the starter, cancel the work while the block runs."""
    interruption = Interruption(work, say)
    loop = asyncio.get_running_loop()
    heeds_hangup = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    heard = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if heeds_hangup else [])]
    for number in heard:
        loop.add_signal_handler(number, interruption.on_signal, number)
    ground = Ground(directory, follows_starter=follows_starter and heeds_hangup)
    watch = asyncio.create_task(_watch(ground, interruption), name="ground")
    try:
        yield interruption
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


class Ground:
    """What a run stands on: a directory, by what it is and not by its name, and the process that started it."""

    def __init__(self, directory: Path, *, follows_starter: bool) -> None:
        self._directory = directory
        self._was = _identity(directory)
        self._starter = os.getppid() if follows_starter and os.getppid() > 1 else 0

    def lost(self) -> str:
        """Say what is gone; empty as long as nothing is."""
        if _identity(self._directory) != self._was:
            return f"{self._directory} was removed"
        if self._starter and os.getppid() != self._starter:
            return f"the process that started it (pid {self._starter}) has ended"
        return ""


async def _watch(ground: Ground, interruption: Interruption) -> None:
    while True:
        if reason := ground.lost():
            interruption.end(reason)
        await asyncio.sleep(LOOK_S)


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        found = directory.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
