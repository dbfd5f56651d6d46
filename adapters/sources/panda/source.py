"""PanDA as a source of jobs: the port's methods, each within its time.

A job is ours from the answer in which it comes. Every update names its try, so that one of a try that is over is told
so, and changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adapters.errors import SourceError, SourceRefused, SourceUnavailable
from adapters.sources.contract import (
    GRID_PAUSE_S,
    Acquired,
    GridEnding,
    GridInput,
    GridJob,
    GridProgress,
    LocalFile,
    Offer,
    Stop,
)
from adapters.sources.http import Budget
from adapters.sources.panda.answers import PandaStatus
from adapters.sources.panda.asks import MOST_JOBS, MachineSize, QueueAsk, asks_for
from adapters.sources.panda.beats import PandaBeats
from adapters.sources.panda.client import PandaClient
from adapters.sources.panda.settings import PandaSettings
from adapters.sources.panda.states import ENDING, FINAL, STOPS, commands_of, given_back, told_of
from adapters.sources.panda.stores import Stores
from adapters.sources.panda.work import Sites, acquired, attempt_nr_of, is_named, kept_of

log = logging.getLogger(__name__)

#: The time that a call of the port has, seconds. No answer takes longer than what is left of it.
CALL_S = 30.0
#: One that stores a log has this.
MOVE_S = 50.0
#: With less than this left no more jobs are asked for: what comes too late is lost.
LEAST_ASK_S = 5.0


class PandaSource:
    """A queue of PanDA."""

    #: As the contract: PanDA lets no word of a pilot's undo a final status.
    affirm_after_s = 0.0
    longest_pause_s = GRID_PAUSE_S
    #: PanDA fails jobs of which nobody speaks for half an hour, and has them tried again.
    names_takings = False

    def __init__(
        self,
        client: PandaClient,
        stores: Stores,
        settings: PandaSettings,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._stores, self._settings = client, stores, settings
        servers = [url for url in (settings.url, settings.cache_url) if url]
        self._sites = Sites([*servers, *settings.programs_from], settings.storage)
        self._beats = PandaBeats(client, settings.updates_per_s, clock_s)

    def acquire(self, offers: Sequence[Offer], most: int, taking: str = "") -> Sequence[Acquired]:
        """Take jobs that these slots can do; what cannot be done is among them, with its flaw. Raises SourceUnavailable
        and SourceRefused where none was given; the jobs of an answer that is lost PanDA has to give up itself."""
        found: list[Acquired] = []
        try:
            self._fill(found, offers, most, Budget(CALL_S))
        except SourceError as error:
            if not found:
                raise
            # What was given before is ours: it is written down first, and the same is asked again.
            log.warning("PanDA gives no more jobs", extra={"why": str(error)})
        return found

    def taken(self, takings: Sequence[str]) -> Sequence[GridJob]:
        """It is not asked."""
        return ()

    def stage_in(self, job: GridJob, wanted: GridInput, target: Path) -> None:
        """Fetch an input, or a program, and hold it to what PanDA knows of it; PanDA hears now and then that the job is
        made ready. Raises SourceRefused for one that PanDA wants stopped."""
        if why := self._beats.keep(job, Budget(CALL_S)):
            raise SourceRefused(why)
        self._stores.fetch(wanted, target, Budget(self._settings.input_s))

    def beat(self, running: Sequence[GridProgress]) -> Sequence[Stop]:
        """Say how jobs are, and hear which are to be stopped: those that were killed there, that have ended there, that
        are another try by now, and that are not there any more."""
        return self._beats.beat(running, Budget(CALL_S))

    def stage_out(self, ending: GridEnding, local: LocalFile) -> str:
        """Store what the job has left as an archive in the server's cache: the job's log."""
        files = {one.name: local(one.name) for one in ending.outputs}
        return self._stores.store_log(ending.job, files, Budget(MOVE_S)) if files else ""

    def register(self, ending: GridEnding) -> None:
        """PanDA's own daemon registers what the report of the final status names."""

    def finish(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """Set final statuses; gives why one is not set. Raises SourceUnavailable where PanDA could be told of none."""
        budget, jobs = Budget(CALL_S), [one.job for one in endings]
        reasons = {job.id: "its name is none of PanDA's" for job in jobs if not is_named(job)}
        told = [one for one in endings if is_named(one.job)]
        updates = [told_of(one, its.log_file, its.log_guid) for one in told for its in [kept_of(one.job)]]
        doubtful, troubles = self._told([one.job for one in told], updates, budget)
        reasons |= {job: str(error) for job, error in troubles.items()} | self._why_not(doubtful, budget)
        self._beats.forget(job for job in jobs if job.id not in reasons)
        return reasons

    def affirm(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """There is nothing to be looked at again."""
        return {}

    def release(self, jobs: Sequence[GridJob], why: str) -> None:
        """Say that nobody has begun these jobs: PanDA makes others of them. Raises SourceUnavailable."""
        told = [job for job in jobs if is_named(job)]
        _, troubles = self._told(told, [given_back(job, why) for job in told], Budget(CALL_S))
        self._beats.forget(jobs)
        if troubles:
            job, error = next(iter(troubles.items()))
            raise SourceUnavailable(f"{len(troubles)} jobs are not given back, such as {job}: {error}")

    def close(self) -> None:
        """Drop connections. Idempotent."""
        self._client.close()

    def _fill(self, found: list[Acquired], offers: Sequence[Offer], most: int, budget: Budget) -> None:
        """Ask until the slots have jobs, or PanDA has none for them: what it gives is found at once."""
        empty: list[QueueAsk] = []
        slots = Counter[MachineSize]()
        for ask in asks_for(offers, self._settings.resource_types):
            while budget.left_s() > LEAST_ASK_S and not any(ask.is_within(other) for other in empty):
                wanted = min(ask.slots - slots[ask.machine], most - len(found), MOST_JOBS)
                if wanted <= 0:
                    break
                given = self._client.acquire(ask, wanted, budget)
                found += [acquired(job, self._sites, ask.room) for job in given]
                slots[ask.machine] += len(given)
                if len(given) < wanted:
                    empty.append(ask)

    def _told(
        self, jobs: Sequence[GridJob], updates: Sequence[Mapping[str, object]], budget: Budget
    ) -> tuple[list[GridJob], dict[str, SourceError]]:
        """Send updates; gives the jobs of which PanDA says that they are not to go on, which may be because what was
        said came too late; and what is wrong with others, by id. Raises SourceError where it is so with all."""
        doubtful: list[GridJob] = []
        troubles: dict[str, SourceError] = {}
        told = 0
        try:
            for place, answer in self._client.update(updates, budget):
                told = place + 1
                error = answer.error()
                if error is not None:
                    troubles[jobs[place].id] = error
                elif answer.data and commands_of(answer.data.command) & STOPS:
                    doubtful.append(jobs[place])
        except SourceError as error:
            if not told:
                raise
            troubles |= dict.fromkeys((job.id for job in jobs[told:]), error)
        return doubtful, troubles

    def _why_not(self, jobs: Sequence[GridJob], budget: Budget) -> dict[str, str]:
        """Say why final statuses were not set, of jobs that PanDA wants stopped."""
        there = self._client.look([int(job.id) for job in jobs], budget) if jobs else {}
        reasons = {job.id: _why_not_set(job, there.get(int(job.id))) for job in jobs}
        return {job: why for job, why in reasons.items() if why}


def _why_not_set(job: GridJob, now: PandaStatus | None) -> str:
    if now is None:
        return "it is not known at the grid"
    if now.attempt_nr != attempt_nr_of(job):
        return f"it is at its try {now.attempt_nr} at the grid, and this was {attempt_nr_of(job)}"
    return "" if now.status in FINAL | ENDING else f"it stays {now.status[:40]} at the grid"
