"""DIRAC as a source of jobs: the port's methods, each within its time.

A job is taken as ``matchers`` say, and how it is there is read each time. Each status that is set is read again: DIRAC
says success of one that it does not set.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from adapters.errors import SourceUnavailable
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
from adapters.sources.dirac.beats import DiracBeats, not_ours
from adapters.sources.dirac.client import MOST_AT_ONCE, DiracClient, DiracRow
from adapters.sources.dirac.jobs import Kept, kept_of
from adapters.sources.dirac.matchers import Matcher
from adapters.sources.dirac.sandboxes import Sandboxes
from adapters.sources.dirac.states import FINAL, Told, told_of, way
from adapters.sources.dirac.taken import let_go
from adapters.sources.http import Budget
from adapters.sources.names import is_number

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The time that a call of the port has, seconds. No answer takes longer than what is left of it.
CALL_S = 30.0
#: One that moves a sandbox has this.
MOVE_S = 50.0
#: After how long it is looked whether a final status stands: what was said before is done by then, or was cut off.
AFFIRM_AFTER_S = 2 * CALL_S
#: Why a job that another source of this name has left is not this one's.
_STRANGE = "its name is none of DIRAC's"
#: How long one waits before what was not done is asked for again: within a second the server may pass it over.
_AGAIN_S = 1.1


class DiracSource:
    """A grid of DIRAC."""

    #: DiracX compares a status with the one before and then sets it, with no lock: one that was on its way from a beat,
    #: of another adapter, undoes a final one. By then all calls are over that were begun before it was set.
    affirm_after_s = AFFIRM_AFTER_S
    longest_pause_s = GRID_PAUSE_S

    def __init__(
        self,
        client: DiracClient,
        matcher: Matcher,
        sandboxes: Sandboxes,
        site: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._matcher, self._sandboxes, self._site = client, matcher, sandboxes, site
        self._beats = DiracBeats(client, site, clock_s)
        self._is_closed = threading.Event()
        #: Held while statuses are told: no beat of ours is on its way while a final one is set, which it would undo.
        self._telling = threading.Lock()

    @property
    def names_takings(self) -> bool:
        """As the contract: by the marks of the jobs that wait for no matcher of DIRAC's."""
        return self._matcher.names_takings

    def acquire(self, offers: Sequence[Offer], most: int, taking: str = "") -> Sequence[Acquired]:
        """Take jobs that wait and that these slots can do; what is for this site alone and cannot be done is among
        them, with its flaw. Raises SourceUnavailable and SourceRefused; what has been taken by then is given the next
        time."""
        return self._matcher.acquire(offers, most, taking, Budget(CALL_S))

    def taken(self, takings: Sequence[str]) -> Sequence[GridJob]:
        """Name jobs that bear the marks of these calls."""
        return self._matcher.taken(takings, Budget(CALL_S))

    def stage_in(self, job: GridJob, wanted: GridInput, target: Path) -> None:
        """Fetch a sandbox as a plain archive."""
        self._sandboxes.fetch(wanted.where, target, Budget(MOVE_S))

    def beat(self, running: Sequence[GridProgress]) -> Sequence[Stop]:
        """Say how jobs are, and hear which are to be stopped: those that have ended there, that were rescheduled, that
        are at another site, and that are not there any more."""
        ours = [one for one in running if is_number(one.job.id)]
        strange = [Stop(one.job.id, one.job.attempt, _STRANGE) for one in running if not is_number(one.job.id)]
        with self._telling:
            budget = Budget(CALL_S)
            return strange + [stop for portion in _portions(ours) for stop in self._beats.beat(portion, budget)]

    def stage_out(self, ending: GridEnding, local: LocalFile) -> str:
        """Store what the job has left as its output sandbox, the streams under their names there."""
        kept = kept_of(ending.job)
        names = {"stdout": kept.stdout, "stderr": kept.stderr}
        files = {names.get(one.name, one.name): local(one.name) for one in ending.outputs}
        return self._sandboxes.store(int(ending.job.id), files, Budget(MOVE_S)) if files else ""

    def register(self, ending: GridEnding) -> None:
        """There is no catalogue here."""

    def finish(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """Set final statuses, and read them again; gives why one is not set."""
        reasons: dict[int, str] = {}
        with self._telling:
            budget = Budget(CALL_S)
            for portion in _portions([one for one in endings if is_number(one.job.id)]):
                jobs = {int(one.job.id): one.job for one in portion}
                targets = {int(one.job.id): told_of(one) for one in portion}
                foreign, stuck = self._led(jobs, targets, FINAL, budget)
                reasons |= foreign | stuck
                self._beats.forget(jobs)
        strange = {one.job.id: _STRANGE for one in endings if not is_number(one.job.id)}
        return strange | {str(job): why for job, why in reasons.items()}

    def affirm(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """Read final statuses again; one that a beat has undone is set. What was rescheduled since is left alone."""
        with self._telling:
            return self._affirmed(endings, Budget(CALL_S))

    def _affirmed(self, endings: Sequence[GridEnding], budget: Budget) -> Mapping[str, str]:
        reasons: dict[int, str] = {}
        for portion in _portions([one for one in endings if is_number(one.job.id)]):
            jobs = {int(one.job.id): one.job for one in portion}
            rows = {job: row for job, row in self._client.look(list(jobs), budget).items() if row.status not in FINAL}
            foreign = not_ours(self._client, self._site, jobs, rows, budget)
            undone = {job: row for job, row in rows.items() if job not in foreign}
            if undone:
                log.warning("final statuses were undone at the grid, and are set again", extra={"jobs": sorted(undone)})
            targets = {int(one.job.id): told_of(one) for one in portion}
            reasons |= self._insisted(undone, targets, FINAL, budget)
        return {str(job): why for job, why in reasons.items()}

    def release(self, jobs: Sequence[GridJob], why: str) -> None:
        """Let jobs wait at the grid again, for the sites that they were for. Raises SourceUnavailable where one does
        not."""
        budget, words = Budget(CALL_S), f"Given back: {why}"
        for portion in _portions([job for job in jobs if is_number(job.id)]):
            kept = {int(job.id): kept_of(job) for job in portion}
            marked = {job: one for job, one in kept.items() if one.mark}
            stuck = self._let_go(marked, words, budget) if marked else {}
            stuck |= self._given_back({int(job.id): job for job in portion if int(job.id) not in marked}, words, budget)
            if stuck:
                job, why_not = next(iter(stuck.items()))
                raise SourceUnavailable(f"{len(stuck)} jobs are not given back, such as {job}: {why_not}")

    def close(self) -> None:
        """Drop connections, and end the matcher's program. Idempotent."""
        self._is_closed.set()
        self._matcher.close()
        self._client.close()

    def _led(
        self, jobs: Mapping[int, GridJob], targets: Mapping[int, Told], ends: frozenset[str], budget: Budget
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Lead jobs to a status by its steps; gives why some are not ours, and why others did not come there."""
        rows = self._client.look(list(jobs), budget)
        open_rows = {job: row for job, row in rows.items() if row.status not in ends}
        foreign = not_ours(self._client, self._site, jobs, open_rows, budget)
        left = {
            job: row
            for job, row in open_rows.items()
            if job not in foreign or (row.status == "Rescheduled" and way(row.status, targets[job].status))
        }
        foreign = {job: why for job, why in foreign.items() if job not in left}
        foreign |= {job: "it is not known at the grid" for job in jobs if job not in rows}
        return foreign, self._insisted(left, targets, ends, budget)

    def _insisted(
        self, rows: Mapping[int, DiracRow], targets: Mapping[int, Told], ends: frozenset[str], budget: Budget
    ) -> dict[int, str]:
        """Have jobs take their steps, and once more where they did not; gives why some have not come to an end."""
        left = self._stepped(rows, targets, ends, budget)
        if left and not self._is_closed.wait(min(_AGAIN_S, budget.left_s())):
            left = self._stepped(left, targets, ends, budget)
        return {job: f"it stays {row.status} at the grid" for job, row in left.items()}

    def _stepped(
        self, rows: Mapping[int, DiracRow], targets: Mapping[int, Told], ends: frozenset[str], budget: Budget
    ) -> dict[int, DiracRow]:
        """Have jobs take their steps; gives those that have not come to an end."""
        steps = {
            job: [targets[job]._replace(status=status) for status in way(row.status, targets[job].status)]
            for job, row in rows.items()
        }
        self._client.set_statuses({job: of_job for job, of_job in steps.items() if of_job}, budget)
        now = self._client.look(list(rows), budget)
        return {job: row for job, row in now.items() if row.status not in ends}

    def _let_go(self, jobs: Mapping[int, Kept], words: str, budget: Budget) -> dict[int, str]:
        """Have jobs wait that are as they were taken, and once more where they did not; gives why some do not."""
        left = let_go(self._client, jobs, words, budget)
        if left and not self._is_closed.wait(min(_AGAIN_S, budget.left_s())):
            left = let_go(self._client, {job: jobs[job] for job in left}, words, budget)
        return {job: f"it stays {status} at the grid" for job, status in left.items()}

    def _given_back(self, jobs: Mapping[int, GridJob], words: str, budget: Budget) -> dict[int, str]:
        """Have jobs wait that are ours, for the sites that they were for; gives why some do not."""
        target = Told("Waiting", words)
        _, stuck = self._led(jobs, dict.fromkeys(jobs, target), FINAL | {"Waiting"}, budget)
        self._give_back_sites(jobs, budget)
        self._beats.forget(jobs)
        return stuck

    def _give_back_sites(self, jobs: Mapping[int, GridJob], budget: Budget) -> None:
        rows = self._client.look(list(jobs), budget)
        sites = {
            job: kept_of(jobs[job]).site
            for job, row in rows.items()
            if row.status == "Waiting" and row.site == self._site
        }
        self._client.set_sites({job: site for job, site in sites.items() if site != self._site}, budget)


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for begin in range(0, len(items), MOST_AT_ONCE):
        yield items[begin : begin + MOST_AT_ONCE]
