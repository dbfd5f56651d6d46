"""Batches on their way: sent to the centre, looked at until their jobs have ended, and put away.

All of it is in one event loop; ``executor`` is what others call. A fault of one job costs the calls of that job, and
one of the centre, or of a look at it, costs time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from functools import partial
from pathlib import Path

from broker.daemon.tasks import OwnedTasks
from schemas.ledger import MAX_LISTED, SETTLED, JobRow, JobState
from volcloud.errors import CallFailed, CommandFailed, VolcloudError
from volcloud.executor import call_centre
from volcloud.executor.batch import Batch
from volcloud.executor.call_centre import FAULTS, CallCentre
from volcloud.executor.call_files import CallFiles, Terms
from volcloud.executor.homecoming import Homecoming

log = logging.getLogger(__name__)

#: Jobs of one batch at most: what one look at it tells.
MOST_JOBS = MAX_LISTED
#: Calls that are given one by one travel together if they come within this time, seconds; more as more is under way.
GATHER_S, GATHER_MOST_S = 0.02, 1.0
#: Between two rounds of looks, and batches that one of them looks at.
LOOK_FIRST_S, LOOK_MOST_S = 0.05, 1.0
LOOKS = 50
#: Without news for this long, why is told, seconds.
STILL_S = 5.0
#: Orders that are given at once.
_ORDERS = 8


class Dispatch:
    """See the module. ``open`` first, ``close`` last."""

    def __init__(self, centre: CallCentre, terms: Terms, scratch: Path) -> None:
        self._centre, self._keep = centre, terms.keep
        self._sent = CallFiles(terms, scratch)
        self._tasks = OwnedTasks("executor")
        self._home = Homecoming(centre, terms, self._tasks, self.look_soon)
        #: By id, the one that was not looked at for the longest time first; and what sends them.
        self._open: dict[str, Batch] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        #: Batches that the centre is asked about, each by itself: who waits for one holds up no other.
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._telling: asyncio.Task[None] | None = None
        self._is_news = False
        self._orders = asyncio.Semaphore(_ORDERS)
        self._news, self._left = asyncio.Event(), asyncio.Event()
        self._changed_s = time.monotonic()
        self._looking: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> int:
        """Batches that have not ended."""
        return len(self._open)

    def begin(self, batch: Batch) -> None:
        """Send a batch; its futures tell the rest."""
        self._open[batch.id] = batch
        self._sending[batch.id] = self._tasks.spawn(self._send(batch), name=batch.id)
        self._news.set()

    def look_soon(self) -> None:
        """Something was cancelled, or sent, or has come."""
        self._news.set()

    async def open(self) -> None:
        """Begin to look at what is under way. Raises OSError."""
        await asyncio.to_thread(self._sent.prepare)
        self._looking = asyncio.create_task(self._look_again(), name="executor looks")

    async def finish(self) -> None:
        """Wait until all has ended, and is put away at the centre."""
        while self._open:
            self._left.clear()
            self._news.set()
            await self._left.wait()
        await self._tasks.finish()

    async def close(self) -> None:
        """Break off what has not ended: it goes on at the centre, and nobody waits for it."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._tasks.cancel()
        left, self._open = [*self._open.values()], {}
        for batch in left:
            error = CallFailed("the executor was closed before there was a result", "wait for it first")
            await asyncio.to_thread(batch.fail, error)

    async def _look_again(self) -> None:
        pause_s = LOOK_FIRST_S
        while True:
            is_news = True
            try:
                is_news = await self._round()
            except Exception:  # nobody else would look: it goes on
                log.exception("a round of looks at calls failed")
            pause_s = LOOK_FIRST_S if is_news else min(pause_s * 1.5, LOOK_MOST_S)
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        if not self._open:
            await self._news.wait()
            self._changed_s = time.monotonic()
        elif not self._news.is_set():
            try:
                async with asyncio.timeout(pause_s):
                    await self._news.wait()
            except TimeoutError:
                return
        self._news.clear()

    async def _round(self) -> bool:
        """Give up what nobody wants, put away what has ended, and have some of the others looked at, those first that
        were not for the longest time; whether there was news since the last round."""
        is_news, self._is_news = self._is_news, False
        for batch in [*self._open.values()]:
            is_news |= self._give_up_unwanted(batch)
            if batch.is_done:
                self._leave(batch)
        looks = (batch for batch in [*self._open.values()] if batch.id not in self._looks)
        for batch in itertools.islice(looks, max(0, LOOKS - len(self._looks))):
            self._open[batch.id] = self._open.pop(batch.id)
            self._looks[batch.id] = self._tasks.spawn(self._looked_at(batch), name=f"look at {batch.id}")
        if self._looks:
            await asyncio.wait(self._looks.values(), timeout=LOOK_FIRST_S)
        if is_news or self._is_news:
            self._changed_s = time.monotonic()
            self._centre.news()
        elif self._open and time.monotonic() - self._changed_s > STILL_S:
            self._changed_s = time.monotonic()
            if self._telling is None or self._telling.done():
                self._telling = self._tasks.spawn(self._tell_why(next(iter(self._open))), name="why nothing moves")
        return is_news or self._is_news

    def _leave(self, batch: Batch) -> None:
        """Be done with a batch: nobody waits for it, and what is asked about it is not waited for."""
        del self._open[batch.id]
        if (look := self._looks.get(batch.id)) is not None:
            look.cancel()
        if not self._open and self._telling is not None:
            self._telling.cancel()
        self._tasks.spawn(self._put_away(batch), name=f"put away {batch.id}")
        self._left.set()

    async def _looked_at(self, batch: Batch) -> None:
        """Have brought home what has ended of a batch."""
        try:
            self._is_news |= await self._look(batch)
        except FAULTS as error:
            self._centre.tell(f"{batch.id} cannot be looked at, and is again: {error}")
        finally:
            self._looks.pop(batch.id, None)

    async def _look(self, batch: Batch) -> bool:
        if not batch.is_submitted or batch.is_done:
            return False
        counts = (await self._centre.list(batch.id, limit=1)).counts
        if counts == batch.counts:
            return False
        rows = {_index(row): row for row in await self._centre.list(batch.id, states=SETTLED)}
        is_short = sum(counts.values()) < len(batch.chunks)
        there = {_index(row) for row in await self._centre.list(batch.id)} if is_short else None
        batch.counts = counts
        for index, chunk in batch.open():
            if not chunk.is_coming and index in rows:
                self._home.begin(batch, rows[index], chunk)
            elif not chunk.is_coming and there is not None and index not in there:
                text = f"job {batch.id}.{index} is not at the centre any more: somebody has deleted it"
                self._home.fail(chunk, CallFailed(text, "call it again"))
        return True

    def _give_up_unwanted(self, batch: Batch) -> bool:
        """Leave what nobody wants: a batch as a whole, which is put away then, or jobs of one that is at the centre."""
        if not batch.is_unwanted and not batch.is_submitted:
            return False
        unwanted = [(index, chunk) for index, chunk in batch.open() if chunk.is_cancelled and not chunk.is_coming]
        for _, chunk in unwanted:
            chunk.is_done = True
        for index, _ in unwanted if not batch.is_done else ():
            self._tasks.spawn(self._cancel(f"{batch.id}.{index}"), name=f"cancel {batch.id}.{index}")
        return bool(unwanted)

    async def _cancel(self, name: str) -> None:
        async with self._orders:
            await self._centre.order(self._centre.jobs.cancel, self._centre.name(name))

    async def _put_away(self, batch: Batch) -> None:
        """End what may run of a batch whose calls have all ended, and delete its jobs unless they are kept. One that is
        on its way is waited for: a cancel that overtakes it finds nothing, and then it runs."""
        if (sending := self._sending.get(batch.id)) is not None:
            if batch.is_going:
                await asyncio.wait({sending}, timeout=call_centre.PUT_AWAY_S)
            if not sending.done() and batch.is_going:
                self._centre.tell(f"{self._centre.name(batch.id)} may still be taken, and nobody wants it: delete it")
            sending.cancel()
        if batch.is_going:
            await self._cancel(batch.id)
            if batch.is_left:
                self._centre.tell(f"{batch.id} stays at the centre: a result of it could not be brought home")
            elif not self._keep:
                await self._centre.order(self._centre.jobs.delete, self._centre.name(batch.id))

    async def _send(self, batch: Batch) -> None:
        try:
            description = await asyncio.to_thread(self._sent.write, batch)
            batch.is_going = True
            await self._centre.insist(partial(self._centre.jobs.submit, description))
            batch.is_submitted = True
        except Exception as error:  # the top of what nobody else waits for: whoever waits for a call is told
            if not isinstance(error, FAULTS):
                log.exception("a batch cannot be sent", extra={"batch": batch.id})
            text = f"the calls could not be sent: {error}"
            failed = error if isinstance(error, VolcloudError) else CommandFailed(text, "mend that, then call again")
            await asyncio.to_thread(batch.fail, failed)
        finally:
            self._sending.pop(batch.id, None)
            self._sent.remove(batch)
            self._news.set()

    async def _tell_why(self, batch: str) -> None:
        """Say why there is no news, if that was not said already."""
        try:
            going = [one for one in JobState if one not in SETTLED]
            for row in await self._centre.list(batch, states=going, limit=1):
                why = await self._centre.insist(partial(self._centre.jobs.why, row.job))
                words = "; ".join(filter(None, [why.cause, *why.waiting_for, why.next_step]))
                self._centre.tell(f"{row.job} is {why.state}: {words}")
        except FAULTS as error:
            self._centre.tell(f"why nothing moves cannot be asked: {error}")


def _index(row: JobRow) -> int:
    return int(row.job.rpartition(".")[2])
