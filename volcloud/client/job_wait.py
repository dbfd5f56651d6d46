"""Waiting for jobs to end, and telling meanwhile how far they are and what keeps them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from schemas.ledger import SETTLED
from volcloud.client.centre_caller import insist
from volcloud.errors import Unreachable, WaitTimeout
from volcloud.why import Explanation

#: Counts that stay as they are for this long want a reason, seconds.
STILL_S = 5.0
_POLL_FIRST_S, _POLL_MOST_S = 0.1, 2.0

T = TypeVar("T")
Counts = dict[str, int]


class JobWait:
    """One wait for the jobs of a name; see ``AsyncJobs.wait`` for what it is told by and tells."""

    def __init__(
        self,
        name: str,
        timeout_s: float | None,
        on_change: Callable[[Counts], None] | None,
        on_still: Callable[[Explanation], None] | None,
        on_trouble: Callable[[Unreachable], None] | None,
    ) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._on_change, self._on_still, self._on_trouble = on_change, on_still, on_trouble
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._seen: Counts | None = None
        self._told_at = time.monotonic()
        self._pause_s = _POLL_FIRST_S

    async def run(
        self, count: Callable[[], Awaitable[Counts]], why: Callable[[], Awaitable[Explanation | None]]
    ) -> None:
        """Wait until every job has ended; ``count`` counts them by state, ``why`` explains one that has not ended.
        Raises WaitTimeout, and what these raise."""
        counts = await (count() if self._deadline is None else self.insist(count))
        while counts.keys() - SETTLED:
            self._take(counts)
            self._check_time(counts)
            await self._tell_still(why)
            await asyncio.sleep(self._pause_s)
            counts = await self.insist(count)
        if self._on_change is not None:
            self._on_change(counts)

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again while nobody answers, and tell each time. Raises Unreachable when the time is over."""
        return await insist(ask, deadline=self._deadline, on_trouble=self._on_trouble)

    def _take(self, counts: Counts) -> None:
        if counts == self._seen:
            self._pause_s = min(self._pause_s * 1.5, _POLL_MOST_S)
            return
        self._seen, self._told_at, self._pause_s = counts, time.monotonic(), _POLL_FIRST_S
        if self._on_change is not None:
            self._on_change(counts)

    def _check_time(self, counts: Counts) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            text = f"job {self._name}: {told} after {self._timeout_s:.0f} s"
            raise WaitTimeout(text, f"`volcloud job why {self._name}`")

    async def _tell_still(self, why: Callable[[], Awaitable[Explanation | None]]) -> None:
        if self._on_still is None or time.monotonic() - self._told_at <= STILL_S:
            return
        self._told_at = time.monotonic()
        explanation = await self.insist(why)
        if explanation is not None:
            self._on_still(explanation)
