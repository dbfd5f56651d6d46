"""What came of a job, brought home: its result, or why there is none."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from broker.daemon.tasks import OwnedTasks
from schemas.ledger import JobRow, JobState
from schemas.plain_text import plain, plain_lines
from volcloud.errors import CallFailed, CommandFailed, NoSuchJob
from volcloud.executor.batch import Batch, Chunk
from volcloud.executor.call_centre import FAULTS, CallCentre
from volcloud.executor.call_files import Terms
from volcloud.executor.payload import RESULT

log = logging.getLogger(__name__)

#: Results that are brought home at once; for how long one that cannot be is tried again, seconds.
AT_ONCE, HOME_S = 8, 30.0
#: Between two tries of one, seconds.
AGAIN_S = 1.0
#: Of what a failed job printed, characters.
_MOST_STDERR = 2000


class Homecoming:
    """See the module. ``on_end`` is called when one has come, or is to be tried again."""

    def __init__(self, centre: CallCentre, terms: Terms, tasks: OwnedTasks, on_end: Callable[[], None]) -> None:
        self._centre, self._terms, self._tasks, self._on_end = centre, terms, tasks, on_end
        self._turns = asyncio.Semaphore(AT_ONCE)

    def begin(self, batch: Batch, row: JobRow, chunk: Chunk) -> None:
        """Bring home what came of a job that has ended."""
        chunk.is_coming = True
        self._tasks.spawn(self._bring_home(batch, row, chunk), name=str(row.job))

    def fail(self, chunk: Chunk, error: Exception) -> None:
        """Give its calls an error."""
        chunk.is_coming = True
        self._tasks.spawn(asyncio.to_thread(chunk.fail, error), name="a call has failed")

    async def _bring_home(self, batch: Batch, row: JobRow, chunk: Chunk) -> None:
        try:
            async with self._turns:
                await self._end(row, chunk)
        except Exception as error:  # the top of what nobody else waits for: whoever waits for a call is told
            if not isinstance(error, FAULTS):
                log.exception("a result cannot be brought home", extra={"job": row.job})
            chunk.failed_since_s = chunk.failed_since_s or time.monotonic()
            may_pass = isinstance(error, FAULTS) and not isinstance(error, CommandFailed)
            if may_pass and time.monotonic() - chunk.failed_since_s < HOME_S:
                await asyncio.sleep(AGAIN_S)
                batch.counts = None  # it is looked at again
            else:
                batch.is_left |= row.state is JobState.DONE and not isinstance(error, NoSuchJob)
                text = f"the result of job {row.job} cannot be brought home: {error}"
                failed = CallFailed(text, getattr(error, "next_step", "") or "call it again")
                await asyncio.to_thread(chunk.fail, failed)
        finally:
            chunk.is_coming = False
            self._on_end()

    async def _end(self, row: JobRow, chunk: Chunk) -> None:
        if row.state is not JobState.DONE:
            await asyncio.to_thread(chunk.fail, await self._why_failed(row))
            return
        most = self._terms.most_result_bytes
        text = await self._centre.insist(partial(self._centre.jobs.output, row.job, RESULT, most_bytes=most))
        await asyncio.to_thread(chunk.end, text, trusted=self._terms.trust_guests)

    async def _why_failed(self, row: JobRow) -> CallFailed:
        try:
            why = await self._centre.insist(partial(self._centre.jobs.why, row.job))
        except NoSuchJob:
            text = f"job {row.job} is {row.state}, and not at the centre any more: somebody has deleted it"
            return CallFailed(text, "call it again")
        text = f"job {row.job} is {row.state}: {plain(why.cause or row.reason)}"
        try:
            said = await self._centre.jobs.output(row.job, "stderr", most_bytes=self._terms.most_result_bytes)
            text += f"; it said:\n{plain_lines(said.decode(errors='replace')[-_MOST_STDERR:])}" if said else ""
        except FAULTS as error:
            log.debug("what a job said is not to be had", extra={"job": row.job, "why": str(error)})
        return CallFailed(text, "VolunteerExecutor(keep=True) leaves its jobs at the centre, to look at")
