"""Saying at DIRAC how jobs are, and hearing there which are to be stopped.

How a job is there is read each time, and decides: an order to kill is said once only, and may be for an attempt of
before. What is said differs from what is there, or is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from adapters.sources.contract import GridJob, GridProgress, Stop
from adapters.sources.dirac.client import DiracClient, DiracRow
from adapters.sources.dirac.jobs import attempt_of, kept_of, why_not_ours
from adapters.sources.dirac.states import WHILE, Told, way
from adapters.sources.http import Budget
from adapters.sources.remembered import Remembered

#: A job that is at work is said to be alive no more often than this; one that waits, this often. Seconds.
BEAT_S, WAITS_S = 2.0, 600.0
#: What is said of a job that the search does not find, to hear whether it is there: nothing that would change it.
_UNSEEN = Told("", "", "")


class DiracBeats:
    """What DIRAC has been told of jobs, and when. Its methods may be called from any thread."""

    def __init__(self, client: DiracClient, site: str, clock_s: Callable[[], float]) -> None:
        self._client, self._site, self._clock_s = client, site, clock_s
        #: When jobs were last said to be alive.
        self._told_s: Remembered[int, float] = Remembered()

    def forget(self, jobs: Iterable[int]) -> None:
        """Of these jobs nothing is said any more. Idempotent."""
        for job in jobs:
            self._told_s.forget(job)

    def beat(self, running: Sequence[GridProgress], budget: Budget) -> list[Stop]:
        """Say how jobs are; gives those that are not to go on. Raises SourceUnavailable and SourceRefused."""
        latest = {int(one.job.id): one for one in sorted(running, key=lambda one: one.job.attempt)}
        stops = {one.job: "a later attempt of it is here" for one in running if latest[int(one.job.id)] is not one}
        rows = self._client.look(list(latest), budget)
        gone = not_ours(self._client, self._site, {job: one.job for job, one in latest.items()}, rows, budget)
        alive = {job: one for job, one in latest.items() if job in rows and job not in gone}
        gone |= self._tell(alive, rows, [job for job in latest if job not in rows], budget)
        gone |= self._say_alive({job: one for job, one in alive.items() if job not in gone}, rows, budget)
        stops |= {latest[job].job: why for job, why in gone.items()}
        self.forget(gone)
        return [Stop(job.id, job.attempt, why) for job, why in stops.items()]

    def _tell(
        self, alive: Mapping[int, GridProgress], rows: Mapping[int, DiracRow], missing: Iterable[int], budget: Budget
    ) -> dict[int, str]:
        """Set what has changed. Of jobs that the search does not find it is asked once more whether they are there: the
        operator may have lost the right to see them."""
        steps = {job: told for job, one in alive.items() if (told := self._steps(job, one, rows[job]))}
        asked = {job: [_UNSEEN] for job in missing}
        unknown = self._client.set_statuses({**steps, **asked}, budget)
        return dict.fromkeys(unknown & (set(steps) | set(asked)), "it is not at the grid any more")

    def _steps(self, job: int, one: GridProgress, row: DiracRow) -> list[Told]:
        told = WHILE.get(one.state)
        if told is None:
            return []
        if steps := way(row.status, told.status):
            return [told._replace(status=status) for status in steps]
        is_news = (row.minor_status, row.application_status) != (told.minor, told.application)
        is_due = row.status == "Matched" and self._is_due(job, WAITS_S)
        return [told._replace(status=row.status)] if is_news or is_due else []

    def _say_alive(
        self, alive: Mapping[int, GridProgress], rows: Mapping[int, DiracRow], budget: Budget
    ) -> dict[int, str]:
        at_work = [job for job, one in alive.items() if _is_at_work(one, rows[job]) and self._is_due(job, BEAT_S)]
        orders = self._client.beat(at_work, budget)
        named = sorted({order.job_id for order in orders if order.job_id in alive})
        now = self._client.look(named, budget)
        return {job: why for job, row in now.items() if (why := why_not_ours(row, self._site))}

    def _is_due(self, job: int, every_s: float) -> bool:
        now_s, told_s = self._clock_s(), self._told_s.get(job)
        if told_s is not None and now_s - told_s < every_s:
            return False
        self._told_s.put(job, now_s)
        return True


def not_ours(
    client: DiracClient, site: str, jobs: Mapping[int, GridJob], rows: Mapping[int, DiracRow], budget: Budget
) -> dict[int, str]:
    """Say of jobs why they are not ours any more. One whose time of rescheduling has changed may just have been looked
    at by another adapter: its history tells."""
    gone = {job: why for job, row in rows.items() if (why := why_not_ours(row, site))}
    doubtful = [job for job, row in rows.items() if job not in gone and _is_doubtful(jobs[job], row)]
    for job, row in client.look(doubtful, budget, history=True).items():
        if attempt_of(row) > jobs[job].attempt:
            gone[job] = "it was rescheduled at the grid"
    return gone


def _is_doubtful(job: GridJob, row: DiracRow) -> bool:
    before = kept_of(job).rescheduled
    return bool(before) and row.reschedule_time != before


def _is_at_work(one: GridProgress, row: DiracRow) -> bool:
    """A beat makes of a job that was matched one that runs: of one that waits here none is sent."""
    told = WHILE.get(one.state)
    return row.status != "Matched" or (told is not None and told.status == "Running")
