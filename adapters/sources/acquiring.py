"""Asking a grid for jobs: no more than there are free slots for which nothing waits here, and seldom if it has none.

While its jobs are short, what slots take ahead counts as free too: they ask for it only where their jobs were short.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from adapters.errors import AdapterError, LedgerUnavailable, SourceError
from adapters.ledger import acquisitions, demand, takings
from adapters.ledger.acquisitions import Acquisition, AcquisitionKey
from adapters.ledger.demand import FreeSlots
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.sources.contract import MOST_DATA_BYTES, MOST_ID, Acquired, GridJob, GridSource, GridWork, Offer
from adapters.sources.lane import Lane
from adapters.sources.pace import LookPauses, RecentJobs
from broker.backoff import backoff
from broker.daemon.tasks import wholly

log = logging.getLogger(__name__)

#: How often free slots are looked for, seconds; and the first pause after a grid has said that it has nothing.
LOOK_S, FIRST_PAUSE_S = 1.0, 2.0
#: And the first pause while its jobs are short: as many as may be in one call.
SOON_S = 0.1
#: Longest description of what a job asks for, bytes.
MOST_WORK_BYTES = 1 << 20
#: Bounds of the wait before what was given is written down again, seconds.
AGAIN_S, LONGEST_AGAIN_S = 0.2, 10.0
#: How often it is looked whether jobs were taken and never written down, seconds.
LOST_S = 15.0
#: For how long what was given is tried to be written down, seconds; then it is given back.
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
        self._pauses, self._lost_due_s = self._new_pauses(), 0.0

    def learn(self, ran_s: Sequence[float]) -> None:
        """Note for how long jobs ran that have ended, seconds. Were they short, their slots are asked for soon."""
        was_short = self._recent.are_short
        for one in ran_s:
            self._recent.learn(one)
        self._looks.soon()
        if self._recent.are_short and not was_short and self._gave:
            self._lane.wake()

    async def turn(self) -> float:
        """Ask once, if there is anybody to ask for; and see to what was taken and lost."""
        pause_s = await self._ask_for_free()
        await self._give_back_lost()
        return pause_s

    async def _ask_for_free(self) -> float:
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
        return free, takings.begin(tx, self._name) if free and self._source.names_takings else ""

    async def _give_back_lost(self) -> None:
        """Give back what was taken and never written down; trouble with it keeps no job from being asked for."""
        if not self._source.names_takings or time.monotonic() < self._lost_due_s:
            return
        self._lost_due_s = time.monotonic() + LOST_S
        try:
            if await self._writer.read(partial(takings.is_any_due, source=self._name)):
                await wholly(self._see_to(await self._writer.write(partial(takings.claim, source=self._name))))
            self._lane.trouble("")
        except (AdapterError, OSError) as error:
            self._lane.trouble(f"jobs that were taken and never written down are not given back yet: {error}")

    async def _see_to(self, names: Sequence[str]) -> None:
        """Give back the jobs of takings that nobody will write down any more, unless another has written them down."""
        named = {_key(self._name, job): job for job in await self._lane.call(self._source.taken, names)}
        lost = await self._writer.read(partial(acquisitions.unknown, keys=list(named))) if named else []
        if lost:
            some = ", ".join(key.id for key in lost[:20])
            log.warning("taken and never written down: given back", extra={"jobs": len(lost), "such_as": some})
            await self._lane.call(self._source.release, [named[key] for key in lost], "nobody had written it down")
        await self._writer.write(partial(takings.seen_to, source=self._name, names=names, given_back=len(lost)))

    def _look_s(self) -> float:
        return self._looks.pause_s(LOOK_S) if self._recent.are_short and self._gave else LOOK_S

    async def _fetch(self, free: Sequence[FreeSlots], taking: str) -> float:
        self._gave = False
        given = await self._ask(free, taking)
        if given:
            self._gave, self._pauses = True, self._new_pauses()
            self._looks.soon()
        pause_s = self._look_s() if given else next(self._pauses)
        await self._write_down(given, taking, sum(one.slots for one in free), pause_s)
        self._on_given()
        return pause_s

    async def _ask(self, free: Sequence[FreeSlots], taking: str) -> Sequence[Acquired]:
        """Ask the grid. What a call that fails has taken is for a later one, or void in time."""
        offers = [Offer(one.machine, one.slots) for one in free]
        wanted = sum(one.slots for one in free)
        try:
            given = await self._lane.call(self._source.acquire, offers, wanted, taking)
        except AdapterError:
            await self._writer.write(partial(_settle_nothing, self._name, wanted))
            raise
        if len(given) > wanted:
            log.warning("the source gives more than was asked for", extra={"asked": wanted, "given": len(given)})
            await self._give_back([one.job for one in given[wanted:]], "more than was asked for")
        return given[:wanted]

    async def _write_down(self, given: Sequence[Acquired], taking: str, asked: int, pause_s: float) -> None:
        """Write down what was given, but for what comes too late. Where the ledger does not take it for long, the
        taking is void in time; what bears no name is given back."""
        names = {one.taking or taking for one in given} | {taking}

        def work(tx: Tx) -> None:
            late = takings.end(tx, self._name, names - {""})
            rows = [_row(self._name, one) for one in given if (one.taking or taking) not in late]
            acquisitions.put(tx, rows)
            demand.settle(tx, self._name, asked=asked, given=len(rows), pause_s=pause_s)

        try:
            await self._insist(work)
        except AdapterError:
            await self._give_back(
                [one.job for one in given if not (one.taking or taking)], "they were not written down"
            )
            raise

    async def _insist(self, work: Callable[[Tx], None]) -> None:
        ends_s = time.monotonic() + PATIENCE_S
        for wait_s in backoff(AGAIN_S, LONGEST_AGAIN_S):
            try:
                await self._writer.write(work)
                return
            except LedgerUnavailable as error:
                log.error("what the source gave cannot be written down yet", extra={"why": str(error)})
                if time.monotonic() > ends_s:
                    raise
            await asyncio.sleep(wait_s)

    async def _give_back(self, jobs: Sequence[GridJob], why: str) -> None:
        if not jobs:
            return
        try:
            await self._lane.call(self._source.release, jobs, why)
        except (SourceError, OSError) as error:
            log.error("not given back", extra={"jobs": [job.id for job in jobs][:20], "why": str(error)})

    def _new_pauses(self) -> Iterator[float]:
        return backoff(FIRST_PAUSE_S, self._longest_s)


def _row(name: str, given: Acquired) -> Acquisition:
    job = given.job
    key = _key(name, job)
    work = b"" if given.work is None else msgspec.msgpack.encode(given.work)
    flaw = given.flaw or ("" if given.work else "its source could not say what is to be done")
    if given.work is not None and len(work) > MOST_WORK_BYTES:
        flaw = _too_long(given.work)
    if len(job.data) > MOST_DATA_BYTES:
        flaw = f"its source keeps {len(job.data)} bytes with it: at most {MOST_DATA_BYTES} are kept"
    return Acquisition(key=key, data=job.data[:MOST_DATA_BYTES], work=b"" if flaw else work, flaw=flaw)


def _key(name: str, job: GridJob) -> AcquisitionKey:
    return AcquisitionKey(name, job.id[:MOST_ID], job.attempt)


def _too_long(work: GridWork) -> str:
    sizes = {name: len(msgspec.msgpack.encode(value)) for name, value in msgspec.structs.asdict(work).items()}
    largest = max(sizes, key=lambda name: sizes[name])
    return f"its {largest} has {sizes[largest]} bytes: at most {MOST_WORK_BYTES} go into a job in all; send a file"


def _settle_nothing(name: str, asked: int, tx: Tx) -> None:
    demand.settle(tx, name, asked=asked, given=0, pause_s=LOOK_S)
