"""Who waits for room on the disk waits for what has ended by then, and for no stream of what ends later."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.daemon.tasks import OwnedTasks
from guest_agent.attempt import Attempt
from guest_agent.completions import Completions
from schemas.jobs import JobCompletion, Outcome
from tests.broker.polling import until
from tests.unit import guests
from tests.unit.test_job_loop import Up


class Ends:
    """Completions of a guest, and what they have begun."""

    def __init__(self, directory: Path) -> None:
        self.at = guests.Guest(directory)
        self.forgotten: list[Attempt] = []
        self.completions = Completions(Up(), self.at.resources, self.forgotten.append, OwnedTasks("test"))

    def end(self, number: int) -> asyncio.Task[None]:
        attempt = self.at.attempt("true", job=f"site-a/j.{number}")
        completion = JobCompletion(job=attempt.assign.job, attempt=1, outcome=Outcome.DONE)
        return asyncio.create_task(self.completions.complete(attempt, completion))


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends(tmp_path)
    yield made
    made.at.close()


async def test_what_cannot_end_holds_up_nobody_that_came_before(ends: Ends) -> None:
    ends.end(1)
    await until(lambda: ends.forgotten)
    waits = asyncio.create_task(ends.completions.settle())
    await asyncio.sleep(0)
    ends.at.journal.troubles = [OSError(errno.ENOSPC, "No space left on device", "journal")] * 1000
    stuck = ends.end(2)

    async with asyncio.timeout(20):
        await waits

    assert not stuck.done()
    stuck.cancel()


async def test_what_has_ended_by_then_is_waited_for(ends: Ends) -> None:
    ends.at.journal.troubles = [OSError(errno.ENOSPC, "No space left on device", "journal")]
    ending = ends.end(1)
    await asyncio.sleep(0)
    waits = asyncio.create_task(ends.completions.settle())
    await until(lambda: not ends.at.journal.troubles)
    early = waits.done()

    async with asyncio.timeout(20):
        await asyncio.gather(waits, ending)

    assert not early
    assert ends.forgotten


async def test_who_waits_for_nothing_goes_on_at_once(ends: Ends) -> None:
    async with asyncio.timeout(20):
        await ends.completions.settle()
