"""A lane: one kind of work with a grid, done in turns, for ever. Lanes do not wait for each other.

What goes wrong in a turn is told, and the turn is taken again after growing, jittered waits: a grid that is down, slow
or out of its mind costs its own lanes their time and nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from adapters.errors import AdapterError, SourceUnavailable
from adapters.sources.kept_threads import KeptThreads
from broker.backoff import backoff
from schemas.codec import clip

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Bounds of the wait after a turn that has failed, seconds.
FIRST_S, LONGEST_S = 1.0, 60.0
#: After how long a call to a grid that has not come back is told as trouble, seconds.
SILENT_S = 30.0
#: Longest words of a trouble, characters.
MOST_WORDS = 300


class Troubles:
    """What is wrong, by lane; of all of them one line for people."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def note(self, lane: str, words: str) -> None:
        """Say what is wrong with a lane; empty = nothing."""
        if words and self._of.get(lane) != words:
            log.warning("trouble with the source", extra={"lane": lane, "why": words})
        if not words and lane in self._of:
            log.info("the trouble is over", extra={"lane": lane})
        self._of.pop(lane, None)
        if words:
            self._of[lane] = clip(words, MOST_WORDS)

    def __str__(self) -> str:
        return "; ".join(f"{lane}: {words}" for lane, words in sorted(self._of.items()))


class Lane:
    """See the module. Belongs to one loop; its calls to the grid have threads of their own."""

    def __init__(self, name: str, troubles: Troubles, threads: int = 1) -> None:
        self.name, self._troubles = name, troubles
        self._places, self._threads = asyncio.Semaphore(threads), KeptThreads(f"source {name}")
        self._waits: Iterator[float] = backoff(FIRST_S, LONGEST_S)
        self._woken = asyncio.Event()
        self._said = ""
        #: When the calls that are under way began, each by its future.
        self._calls: dict[object, float] = {}

    async def run(self, turn: Callable[[], Awaitable[float]]) -> None:
        """Take turns until cancelled; a turn says how long to wait for the next one, seconds."""
        while True:
            self._woken.clear()
            pause_s = await self._once(turn)
            try:
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def trouble(self, words: str) -> None:
        """Tell what is wrong though the lane goes on; empty = nothing."""
        self._said = words

    def wake(self) -> None:
        """Have the next turn taken now."""
        self._woken.set()

    def close(self) -> None:
        """Let its threads end, of which a grid may keep one for ever. Idempotent."""
        self._threads.close()

    async def call(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call the grid in a thread; a call that does not come back is told. Raises AdapterError and OSError alone."""
        async with self._places:
            try:
                coming = self._threads.call(partial(work, *arguments))
            except RuntimeError as error:
                raise SourceUnavailable(f"no thread to ask it in: {error}") from error
            self._calls[coming] = time.monotonic()
            try:
                while not (await asyncio.wait({coming}, timeout=SILENT_S))[0]:
                    self._troubles.note(self.name, self._silence())
            finally:
                del self._calls[coming]
                coming.cancel()  # where we are ended: what it gives then is nobody's
        try:
            return coming.result()
        except (AdapterError, OSError):
            raise
        except Exception as error:
            log.exception("a source did what no source may", extra={"lane": self.name})
            raise SourceUnavailable(f"{type(error).__name__}: {error}") from error

    async def _once(self, turn: Callable[[], Awaitable[float]]) -> float:
        try:
            pause_s = await turn()
        except AdapterError as error:
            return self._failed(str(error))
        except Exception as error:
            log.exception("a turn with the source failed", extra={"lane": self.name})
            return self._failed(f"{type(error).__name__}: {error}")
        self._troubles.note(self.name, self._said or self._silence())
        self._waits = backoff(FIRST_S, LONGEST_S)
        return pause_s

    def _silence(self) -> str:
        """Say for how long the oldest call has had no answer, where that is long; it is trouble, whatever else goes."""
        silent_s = time.monotonic() - min(self._calls.values(), default=time.monotonic())
        times = int(silent_s / SILENT_S)  # in steps: what changes is logged
        return f"no answer for {times * SILENT_S:g} s" if times else ""

    def _failed(self, words: str) -> float:
        self._troubles.note(self.name, words)
        return next(self._waits)
