"""Asking a grid for jobs: no more than there are free slots for which nothing waits here, and seldom if it has none.

While its jobs are short, what slots take ahead counts as free too: they ask for it only where their jobs were short.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from adapters.errors import AdapterError, LedgerUnavailable, SourceError
from adapters.ledger import acquisitions, demand, takings
from adapters.ledger.demand import FreeSlots
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.sources.contract import Acquired, GridJob, GridSource, Offer, names_takings
from adapters.sources.given import row_of
from adapters.sources.lane import Lane
from adapters.sources.pace import LookPauses, RecentJobs
from broker.backoff import backoff
from broker.daemon.tasks import wholly

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How often free slots are looked for, seconds; and the first pause after a grid has said that it has nothing.
LOOK_S, FIRST_PAUSE_S = 1.0, 2.0
#: And the first pause while its jobs are short: as many as may be in one call.
SOON_S = 0.1
#: Bounds of the wait before what was given is written down again, seconds.
AGAIN_S, LONGEST_AGAIN_S = 0.2, 10.0
#: For how long what was given is tried to be written down, seconds; then it is left to who sees to lost takings, or to
#: the grid: it may be written down for all we know.
PATIENCE_S = 60.0


class Acquiring:
    """See the module; ``turn`` is the lane's."""

    def __init__(
        self,
        name: str,
        source: GridSource,
        writer: LedgerWriter,
        lane: Lane,
        most: int,
        longest_pause_s: float,
        on_given: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_given`` hears that jobs were written down."""
        self._name, self._source, self._writer, self._lane = name, source, writer, lane
        self._most, self._longest_s, self._on_given = most, longest_pause_s, on_given
        self._recent, self._looks, self._gave = RecentJobs(), LookPauses(SOON_S), False
        self._pauses = self._new_pauses()
        self._names_takings = names_takings(source)

    def learn(self, ran_s: Sequence[float]) -> None:
        """Note for how long jobs ran that have ended, seconds. Were they short, their slots are asked for soon."""
        was_short = self._recent.are_short
        for one in ran_s:
            self._recent.learn(one)
        self._looks.soon()
        if self._recent.are_short and not was_short and self._gave:
            self._lane.wake()

    async def turn(self) -> float:
        """Ask once, if there is anybody to ask for."""
        ahead = self._recent.are_short
        if not await self._writer.read(partial(demand.is_any, ahead=ahead)):
            return self._look_s()
        free, taking = await self._writer.write(partial(self._begin, ahead))
        if not free:
            return self._look_s()
        # Whoever ends us meanwhile waits: what the grid gives is ours, and nobody else knows of it.
        return await wholly(self._fetch(free, taking))

    def _begin(self, ahead: bool, tx: Tx) -> tuple[list[FreeSlots], str]:
        free = demand.claim(tx, self._name, self._most, ahead=ahead)
        return free, takings.begin(tx, self._name) if free and self._names_takings else ""

    def _look_s(self) -> float:
        return self._looks.pause_s(LOOK_S) if self._recent.are_short and self._gave else LOOK_S

    async def _fetch(self, free: Sequence[FreeSlots], taking: str) -> float:
        self._gave = False
        wanted = sum(one.slots for one in free)
        given = await self._ask(free, wanted, taking)
        if given:
            self._gave, self._pauses = True, self._new_pauses()
            self._looks.soon()
        pause_s = self._look_s() if given else next(self._pauses)
        await self._write_down(given, taking, wanted, pause_s)
        self._on_given()
        return pause_s

    async def _ask(self, free: Sequence[FreeSlots], wanted: int, taking: str) -> Sequence[Acquired]:
        """Ask the grid. What a call that fails has taken is for a later one, or void in time."""
        offers = [Offer(one.machine, one.slots) for one in free]
        named = (taking,) if taking else ()
        try:
            return await self._lane.call(self._source.acquire, offers, wanted, *named)
        except AdapterError:
            await self._writer.write(partial(_settle_nothing, self._name, wanted))
            raise

    async def _write_down(self, given: Sequence[Acquired], taking: str, asked: int, pause_s: float) -> None:
        """Write down what was given, but for what is more than was asked for, and for what comes too late: that is
        given back."""
        names = {_taking_of(one, taking) for one in given} | {taking}

        def work(tx: Tx) -> list[Acquired]:
            late = takings.end(tx, self._name, names - {""})
            in_time = [one for one in given if _taking_of(one, taking) not in late]
            acquisitions.put(tx, [row_of(self._name, one) for one in in_time[:asked]])
            demand.settle(tx, self._name, asked=asked, given=len(in_time[:asked]), pause_s=pause_s)
            left = in_time[asked:] + [one for one in given if _taking_of(one, taking) in late]
            takings.make_void(tx, self._name, {_taking_of(one, taking) for one in left} - {""})
            return left

        left = await self._insist(work)
        if left:
            some = [one.job.id for one in left][:20]
            log.warning(
                "what the source gave is given back: it came too late, or is more than was asked for",
                extra={"asked": asked, "given": len(given), "given_back": len(left), "such_as": some},
            )
            await self._give_back([one.job for one in left if not _taking_of(one, taking)], "more than was asked for")

    async def _insist(self, work: Callable[[Tx], T]) -> T:
        ends_s = time.monotonic() + PATIENCE_S
        for wait_s in backoff(AGAIN_S, LONGEST_AGAIN_S):
            try:
                written: T = await self._writer.write(work)
                return written
            except LedgerUnavailable as error:
                log.error("what the source gave cannot be written down yet", extra={"why": str(error)})
                if time.monotonic() > ends_s:
                    raise
            await asyncio.sleep(wait_s)
        raise AssertionError("the waits do not end")

    async def _give_back(self, jobs: Sequence[GridJob], why: str) -> None:
        try:
            if jobs:
                await self._lane.call(self._source.release, jobs, why)
        except (SourceError, OSError) as error:
            log.error("not given back", extra={"jobs": [job.id for job in jobs][:20], "why": str(error)})

    def _new_pauses(self) -> Iterator[float]:
        return backoff(FIRST_PAUSE_S, self._longest_s)


def _taking_of(one: Acquired, taking: str) -> str:
    """Name the call in which a job was taken that ``taking`` has given."""
    return one.taking or taking


def _settle_nothing(name: str, asked: int, tx: Tx) -> None:
    demand.settle(tx, name, asked=asked, given=0, pause_s=LOOK_S)
