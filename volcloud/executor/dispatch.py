"""Batches on their way: sent to the centre, looked at until their jobs have ended, and their results brought home.

All of it is in one event loop; ``executor`` is what others call.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from broker.daemon.tasks import OwnedTasks
from broker.errors import BrokerError
from schemas.ledger import MAX_LISTED, SETTLED, JobRow, JobState
from volcloud.client.async_client import AsyncClient
from volcloud.client.centre_caller import insist
from volcloud.errors import CallFailed, CommandFailed, VolcloudError
from volcloud.executor.batch import Batch, Chunk
from volcloud.executor.call_files import CallFiles, Terms
from volcloud.executor.payload import RESULT

log = logging.getLogger(__name__)

#: Jobs of one batch at most: what one look at it tells.
MOST_JOBS = MAX_LISTED
#: Calls that are given one by one travel together if they come within this time, seconds; more as more is under way.
GATHER_S, GATHER_MOST_S = 0.02, 1.0
#: Between two rounds of looks, and batches that one of them looks at; questions at once.
LOOK_FIRST_S, LOOK_MOST_S = 0.05, 1.0
LOOKS, AT_ONCE = 50, 8
#: Without news for this long, why is told, seconds.
STILL_S = 5.0


class Dispatch:
    """See the module. ``open`` first, ``close`` last."""

    def __init__(self, client: AsyncClient, terms: Terms, say: Callable[[str], None], scratch: Path) -> None:
        self._client, self._terms, self._say = client, terms, say
        self._sent = CallFiles(terms, scratch)
        self._tasks = OwnedTasks("executor")
        #: By id, the one that was not looked at for the longest time first.
        self._open: dict[str, Batch] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._news, self._left = asyncio.Event(), asyncio.Event()
        self._told = ""
        self._changed_s = time.monotonic()
        self._looking: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> int:
        """Batches that have not ended."""
        return len(self._open)

    def begin(self, batch: Batch) -> None:
        """Send a batch; its futures tell the rest."""
        self._open[batch.id] = batch
        self._news.set()
        self._tasks.spawn(self._send(batch), name=batch.id)

    def look_soon(self) -> None:
        """Something was cancelled, or sent."""
        self._news.set()

    async def open(self) -> None:
        """Begin to look at what is under way. Raises OSError."""
        await asyncio.to_thread(self._sent.prepare)
        self._looking = asyncio.create_task(self._look_again(), name="executor looks")

    async def _look_again(self) -> None:
        pause_s = LOOK_FIRST_S
        while True:
            pause_s = LOOK_FIRST_S if await self._round() else min(pause_s * 1.5, LOOK_MOST_S)
            await self._pause(pause_s)

    async def finish(self) -> None:
        """Wait until all has ended at the centre too, and is put away there."""
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
        for batch in self._open.values():
            batch.fail(CallFailed("the executor was closed before there was a result", "wait for it first"))
        self._open.clear()

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
        """Look at some of the batches, the one that was not looked at for the longest time first; whether there was
        news."""
        chosen = [*itertools.islice(self._open.values(), LOOKS)]
        found = await asyncio.gather(*map(self._looked_at, chosen))
        for batch in chosen:
            del self._open[batch.id]
            if not batch.is_done:
                self._open[batch.id] = batch
        if any(batch.is_done for batch in chosen):
            self._left.set()
        if any(found):
            self._changed_s, self._told = time.monotonic(), ""
        elif self._open and time.monotonic() - self._changed_s > STILL_S:
            self._changed_s = time.monotonic()
            try:
                await self._tell_why(next(iter(self._open.values())))
            except (VolcloudError, BrokerError) as error:
                self._say(f"why nothing moves cannot be asked: {error}")
        return any(found)

    async def _looked_at(self, batch: Batch) -> bool:
        try:
            is_news = await self._look(batch)
            if batch.is_done and batch.is_submitted and not self._terms.keep:
                self._tasks.spawn(self._delete(batch), name=f"delete {batch.id}")
        except Exception as error:  # the top of what nobody else waits for: whoever waits for a call is told
            if not isinstance(error, VolcloudError | BrokerError | OSError):
                log.exception("a batch cannot be looked at", extra={"batch": batch.id})
            batch.fail(_failed(error))
            return True
        return is_news

    async def _look(self, batch: Batch) -> bool:
        is_cancelled = await self._cancel_unwanted(batch)
        if not batch.is_submitted or batch.is_done:
            return is_cancelled
        ended = await self._ended(batch)
        await asyncio.gather(*(self._bring_home(batch, row, chunk) for row, chunk in ended))
        return is_cancelled or bool(ended)

    async def _ended(self, batch: Batch) -> list[tuple[JobRow, Chunk]]:
        """Find the jobs that have ended since the last look."""
        page = await self._ask(
            partial(self._client.jobs.list, owner=self._client.user, job=batch.id, states=SETTLED, limit=MOST_JOBS)
        )
        open_ones = dict(batch.open())
        rows = {int(row.job.rpartition(".")[2]): row for row in page.jobs}
        return [(row, open_ones[index]) for index, row in rows.items() if index in open_ones]

    async def _bring_home(self, batch: Batch, row: JobRow, chunk: Chunk) -> None:
        if row.state is not JobState.DONE:
            why = await self._ask(partial(self._client.jobs.why, row.job))
            chunk.fail(CallFailed(f"job {row.job} is {row.state}: {why.cause or row.reason}", why.next_step))
            return
        async with self._turns:
            text = await self._ask(partial(self._client.jobs.output, row.job, RESULT))
        await asyncio.to_thread(chunk.end, text, trusted=self._terms.trust_guests)

    async def _cancel_unwanted(self, batch: Batch) -> bool:
        unwanted = [(index, chunk) for index, chunk in batch.open() if chunk.is_cancelled]
        if not unwanted or not batch.is_submitted:
            return False
        if len(unwanted) == len(batch.open()):
            await self._ask(partial(self._client.jobs.cancel, f"{self._client.user}/{batch.id}"))
        else:
            await asyncio.gather(*(self._cancel(batch, index) for index, _ in unwanted))
        for _, chunk in unwanted:
            chunk.is_done = True
        return True

    async def _cancel(self, batch: Batch, index: int) -> None:
        async with self._turns:
            await self._ask(partial(self._client.jobs.cancel, f"{self._client.user}/{batch.id}.{index}"))

    async def _delete(self, batch: Batch) -> None:
        try:
            await self._client.jobs.delete(f"{self._client.user}/{batch.id}")
        except (VolcloudError, BrokerError) as error:
            self._say(f"{batch.id} has ended and stays at the centre: {error}")

    async def _send(self, batch: Batch) -> None:
        try:
            description = await asyncio.to_thread(self._sent.write, batch)
            await self._ask(partial(self._client.jobs.submit, description))
        except (VolcloudError, BrokerError, OSError) as error:
            batch.fail(_failed(error))
        else:
            batch.is_submitted = True
        finally:
            await asyncio.to_thread(self._sent.remove, batch)
            self._news.set()

    async def _tell_why(self, batch: Batch) -> None:
        """Say why there is no news, if that was not said already."""
        going = [state for state in JobState if state not in SETTLED]
        rows = await self._ask(
            partial(self._client.jobs.list, owner=self._client.user, job=batch.id, states=going, limit=1)
        )
        for row in rows:
            why = await self._ask(partial(self._client.jobs.why, row.job))
            text = f"{row.job} is {why.state}: " + "; ".join(filter(None, [why.cause, *why.waiting_for, why.next_step]))
            if text != self._told:
                self._told = text
                self._say(text)

    async def _ask(self, ask: Callable[[], Any]) -> Any:
        """Ask for as long as nobody answers, and say so."""
        return await insist(ask, deadline=None, on_trouble=lambda trouble: self._say(f"{trouble}; asked again"))


def _failed(error: Exception) -> Exception:
    if isinstance(error, VolcloudError):
        return error
    return CommandFailed(f"the calls could not be sent: {error}", "mend that, then call again")
