"""Saying at PanDA how jobs are, and hearing there which are to be stopped.

An order is in the answer to an update and nowhere else, so that each job is told of as often as the server can bear: at
each call while they are few, in turn when they are many, and those of which there is news first.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from adapters.errors import SourceError
from adapters.sources.contract import GridJob, GridProgress, Stop
from adapters.sources.http import Budget
from adapters.sources.panda.answers import UpdateAnswer
from adapters.sources.panda.client import PandaClient
from adapters.sources.panda.states import ALREADY, STOPS, WHILE, commands_of, progress
from adapters.sources.panda.work import is_named
from schemas.ledger import JobState

log = logging.getLogger(__name__)

#: Updates that may be sent at once after a while of none.
BURST = 200
#: Jobs of which it is remembered what was said.
MOST_REMEMBERED = 100_000

#: How often it is said that a job is alive whose inputs are on their way, seconds: one that PanDA has handed out and
#: does not hear of in half an hour has failed there.
KEEP_S = 60.0

#: A job by its name and try.
_Key = tuple[str, int]


class UpdateBudget:
    """How many updates may be sent now: so many a second, and a burst. Not for several threads at once."""

    def __init__(self, per_s: float, clock_s: Callable[[], float]) -> None:
        self._per_s, self._clock_s = per_s, clock_s
        self._left, self._at_s = float(BURST), clock_s()

    def take(self, wanted: int) -> int:
        """Give how many of so many there is room for, one at least."""
        now_s = self._clock_s()
        self._left = min(self._left + (now_s - self._at_s) * self._per_s, max(float(BURST), self._per_s))
        self._at_s = now_s
        taken = min(wanted, max(int(self._left), 1))
        self._left -= taken
        return taken


class PandaBeats:
    """What PanDA has been told of jobs, and which it wants stopped. Its methods may be called from any thread."""

    def __init__(self, client: PandaClient, updates_per_s: float, clock_s: Callable[[], float]) -> None:
        self._client, self._clock_s = client, clock_s
        self._room = UpdateBudget(updates_per_s, clock_s)
        self._lock = threading.Lock()
        #: What was last said of a job, and when.
        self._told: OrderedDict[_Key, tuple[str, float]] = OrderedDict()
        self._stops: OrderedDict[_Key, str] = OrderedDict()

    def forget(self, jobs: Iterable[GridJob]) -> None:
        """Of these jobs nothing is said any more. Idempotent."""
        with self._lock:
            for job in jobs:
                self._told.pop(_key(job), None)
                self._stops.pop(_key(job), None)

    def beat(self, running: Sequence[GridProgress], budget: Budget) -> list[Stop]:
        """Say how jobs are; gives those that are not to go on. Raises SourceUnavailable and SourceRefused where no job
        could be told of."""
        latest = {one.job.id: one for one in sorted(running, key=lambda one: one.job.attempt)}
        with self._lock:
            gone = {_key(one.job): "a later attempt of it is here" for one in running if latest[one.job.id] is not one}
            gone |= {_key(one.job): "its name is none of PanDA's" for one in running if not is_named(one.job)}
            chosen = self._chosen([one for one in latest.values() if is_named(one.job)])
        updates = [progress(one.job, WHILE[one.state], one.started_ms) for one in chosen]
        error: SourceError | None = None
        has_told = False
        try:
            for place, answer in self._client.update(updates, budget):
                trouble = self._hear(chosen[place], answer)
                error, has_told = trouble or error, has_told or trouble is None
        except SourceError as late:
            error = late
        if error is not None:
            if not has_told:
                raise error
            log.warning("jobs of which PanDA could not be told", extra={"why": str(error)})
        with self._lock:
            stops = {_key(one.job): self._stops.get(_key(one.job)) for one in running} | gone
        return [Stop(*key, why) for key, why in stops.items() if why]

    def keep(self, job: GridJob, budget: Budget) -> str:
        """Say that a job that is made ready is alive, where that was not said lately; gives why it is not to go on.

        Where PanDA cannot be told, it goes on: a while is nothing to PanDA.
        """
        with self._lock:
            status, at_s = self._told.get(_key(job), ("", 0.0))
            if status and self._clock_s() - at_s < KEEP_S:
                return self._stops.get(_key(job), "")
        one = GridProgress(job=job, state=JobState.SUBMITTED)
        try:
            stops = self.beat([one], budget)
        except SourceError as error:
            log.warning("PanDA could not be told that a job is made ready", extra={"job": job.id, "why": str(error)})
            return ""
        return stops[0].why if stops else ""

    def _chosen(self, running: Sequence[GridProgress]) -> list[GridProgress]:
        """Choose whom to tell of: no one that is to be stopped, news first, then the longest ago."""
        there = [one for one in running if one.state in WHILE and _key(one.job) not in self._stops]
        there.sort(key=self._turn)
        return there[: self._room.take(len(there))]

    def _turn(self, one: GridProgress) -> tuple[bool, float]:
        status, at_s = self._told.get(_key(one.job), ("", 0.0))
        return status == WHILE[one.state], at_s

    def _hear(self, one: GridProgress, answer: UpdateAnswer) -> SourceError | None:
        """Take note of what was said of a job; gives what is wrong with that."""
        error, key = answer.error(), _key(one.job)
        if error is not None:
            return error
        commands = commands_of(answer.data.command if answer.data else None)
        with self._lock:
            self._told[key] = WHILE[one.state], self._clock_s()
            self._told.move_to_end(key)
            if orders := commands & (STOPS | {ALREADY}):
                self._stops[key] = f"PanDA says {', '.join(sorted(orders))}: it was killed, or is not ours any more"
            for kept in (self._told, self._stops):
                while len(kept) > MOST_REMEMBERED:
                    kept.popitem(last=False)
        return None


def _key(job: GridJob) -> _Key:
    return job.id, job.attempt
