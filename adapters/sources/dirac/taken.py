"""Jobs that were taken at DIRAC in a call whose caller has ended, or has given up: found and given back by their marks.

The word by which a job shows that it is taken, its mark, is another as soon as anything is said of the job. So a job
that bears it is as it was left, and is let go only while it does: DiracX has no lock, and others are at work too.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from adapters.sources.contract import GridJob
from adapters.sources.dirac.client import DiracClient, DiracRow
from adapters.sources.dirac.jobs import Kept, attempt_of, named
from adapters.sources.dirac.states import Told, way
from adapters.sources.http import Budget

#: A job with a mark is in one of these: the latter, where it was to be let go and that was cut off.
MARKED = ("Matched", "Rescheduled")
#: Jobs that are looked at in one question.
PAGE = 200


class TakenMark(NamedTuple):
    """What a job bears that was taken, as its application status: by which source, in which call, and for which site
    it was."""

    name: str
    taking: str
    site: str

    @staticmethod
    def new_taking() -> str:
        """Name a call that has no name."""
        return secrets.token_hex(8)

    def __str__(self) -> str:
        return f"{self.name} {self.taking} {self.site}"


def find_taken(
    client: DiracClient, name: str, takings: Sequence[str], sites: Sequence[str], budget: Budget
) -> list[GridJob]:
    """Name the jobs that bear the mark of one of these calls of a source, for whichever of the sites they were. Raises
    SourceUnavailable and SourceRefused."""
    marks = {str(mark): mark for taking in takings for site in sites for mark in [TakenMark(name, taking, site)]}
    where: list[Mapping[str, Any]] = [
        {"parameter": "Status", "operator": "in", "values": list(MARKED)},
        {"parameter": "ApplicationStatus", "operator": "in", "values": list(marks)},
    ]
    found: dict[int, GridJob] = {}
    for page in count(1):
        rows = client.search(where, budget, page, PAGE)
        bearing = [(row, marks[row.application_status]) for row in rows if row.application_status in marks]
        found |= {row.job: _named(row, mark) for row, mark in bearing}
        if len(rows) < PAGE:
            break
    return list(found.values())


def let_go(client: DiracClient, jobs: Mapping[int, Kept], words: str, budget: Budget) -> dict[int, str]:
    """Have jobs wait again, for the sites that they were for, that still bear the marks which were seen; gives the
    status of those that do then. Raises SourceUnavailable and SourceRefused. Cut off it may be done again."""
    rows = _marked(client, jobs, budget)
    # The site first: what waits bears no mark any more, and would be for our site alone.
    client.set_sites({job: jobs[job].site for job, row in rows.items() if row.site != jobs[job].site}, budget)
    waits = Told("Waiting", words)
    steps = {
        job: [
            waits if status == waits.status else Told(status, words, jobs[job].mark)
            for status in way(row.status, waits.status)
        ]
        for job, row in rows.items()
    }
    client.set_statuses(steps, budget)
    return {job: row.status for job, row in _marked(client, {job: jobs[job] for job in rows}, budget).items()}


def _marked(client: DiracClient, jobs: Mapping[int, Kept], budget: Budget) -> dict[int, DiracRow]:
    rows = client.look(list(jobs), budget)
    return {
        job: row for job, row in rows.items() if row.status in MARKED and row.application_status == jobs[job].mark != ""
    }


def _named(row: DiracRow, mark: TakenMark) -> GridJob:
    kept = Kept(site=mark.site, rescheduled=row.reschedule_time or "", mark=str(mark))
    return named(row.job, attempt_of(row), kept)
