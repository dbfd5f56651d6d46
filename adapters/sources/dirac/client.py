"""What a DiracX server is asked about jobs: questions and answers with types, each for as many jobs as there are.

Facts of DiracX 0.7.0 by which it is written: no route gives a job's description but the answer to a reschedule, and for
a job that waits that is all that it does, beside setting its count of reschedules; no status is compared before it is
set; a beat with a number in it is answered with 500 if the one before was in the same second, one without is not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from adapters.sources.dirac.grid_clock import GridClock
from adapters.sources.dirac.states import MOST_APPLICATION, MOST_MINOR, Told
from adapters.sources.http import Budget, Http
from adapters.sources.tokens import TokenFile
from schemas.codec import clip
from schemas.plain_text import plain

#: A job's number at DIRAC.
DiracId = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
_Text = Annotated[str, Meta(max_length=1000)]
#: Jobs of one question, in which each has a number of its own.
MOST_AT_ONCE = 1000
#: Who says how a job is, in DIRAC's history of it. With such a beginning it counts as a sign of life.
SPEAKER = "Job adapter"
_NOT_FOUND = 404


class LoggedStep(Struct, frozen=True, rename="pascal"):
    """A line of a job's history."""

    status: _Text
    source: _Text = ""


class DiracRow(Struct, frozen=True, rename="pascal"):
    """A job as it is at DIRAC."""

    job: DiracId = msgspec.field(name="JobID")
    status: _Text
    minor_status: _Text = ""
    application_status: _Text = ""
    site: _Text = ""
    reschedule_time: _Text | None = None
    logging_info: list[LoggedStep] = []


class Restated(Struct, frozen=True, rename="pascal"):
    """What the answer to a reschedule says of a job: ``jdl`` is its description."""

    jdl: str | None = msgspec.field(name="InputData", default=None)
    status: _Text | None = None
    last_update_time: _Text | None = None


class DiracCommand(Struct, frozen=True):
    """What DIRAC orders; said once only."""

    job_id: DiracId
    command: _Text


class _Reason(Struct):
    detail: _Text = ""


class _Restated(Struct):
    success: dict[DiracId, Restated] = {}
    failed: dict[DiracId, _Reason] = {}


class _Failed(Struct):
    detail: _Restated


class SandboxPlace(Struct, frozen=True):
    """Where a sandbox is to be sent; no ``url`` = it is there."""

    pfn: _Text
    url: Annotated[str, Meta(max_length=4000)] | None = None
    fields: dict[str, str] = {}


class SandboxUrl(Struct, frozen=True):
    """Where a sandbox is to be had."""

    url: Annotated[str, Meta(max_length=4000)]


#: What is read of a job each time.
PARAMETERS = ["JobID", "Status", "MinorStatus", "ApplicationStatus", "Site", "RescheduleTime"]


class DiracClient:
    """A DiracX server, with two credentials: the operator's searches and moves sandboxes, the pilot's does the rest.

    Every method raises SourceUnavailable and SourceRefused, and may be called from any thread.
    """

    def __init__(self, http: Http, operator: TokenFile, pilot: TokenFile) -> None:
        self._http, self._operator, self._pilot = http, operator, pilot
        self._clock = GridClock()

    def close(self) -> None:
        """Drop connections. Idempotent."""
        self._http.close()

    def search(
        self, where: Sequence[Mapping[str, Any]], budget: Budget, page: int = 1, most: int = MOST_AT_ONCE
    ) -> list[DiracRow]:
        """Find jobs by their attributes, those of highest priority first, with their history."""
        order = [{"parameter": "UserPriority", "direction": "desc"}, {"parameter": "JobID", "direction": "asc"}]
        body = {"parameters": [*PARAMETERS, "LoggingInfo"], "search": where, "sort": order}
        return self._rows(body, budget, page, most)

    def look(self, jobs: Sequence[int], budget: Budget, *, history: bool = False) -> dict[int, DiracRow]:
        """Read how jobs are; one that is not known there is left out."""
        if not jobs:
            return {}
        where = [{"parameter": "JobID", "operator": "in", "values": list(jobs)}]
        parameters = [*PARAMETERS, "LoggingInfo"] if history else PARAMETERS
        rows = self._rows({"parameters": parameters, "search": where}, budget, 1, len(set(jobs)))
        wanted = set(jobs)
        return {row.job: row for row in rows if row.job in wanted}

    def descriptions(self, jobs: Sequence[int], budget: Budget) -> dict[int, Restated]:
        """Read the descriptions of jobs that wait. They stay as they are, with their count of reschedules at 0."""
        answer = self._http.ask(
            self._pilot,
            "POST",
            "/api/jobs/reschedule",
            budget,
            {"job_ids": list(jobs)},
            {"reset_jobs": "true"},
            also=frozenset({400}),
        )
        if answer.status == 400:
            return answer.decoded(_Failed).detail.success
        found = answer.decoded(_Restated).success
        self._hear(found.values(), answer.read_s)
        return found

    def set_statuses(self, steps: Mapping[int, Sequence[Told]], budget: Budget) -> frozenset[int]:
        """Set the statuses of jobs, each in steps; gives those that are not known there. What the server then says of
        the others is no proof that it has been done."""
        if not steps:
            return frozenset()
        begin = self._clock.now(time.monotonic())
        body = {
            str(job): {(begin + timedelta(microseconds=n)).isoformat(): _update(step) for n, step in enumerate(of_job)}
            for job, of_job in steps.items()
        }
        answer = self._http.ask(self._pilot, "PATCH", "/api/jobs/status", budget, body, also=frozenset({_NOT_FOUND}))
        if answer.status == _NOT_FOUND:
            return frozenset(answer.decoded(_Failed).detail.failed)
        said = answer.decoded(_Restated)
        self._hear(said.success.values(), answer.read_s)
        return frozenset(said.failed)

    def set_sites(self, sites: Mapping[int, str], budget: Budget) -> None:
        """Say where jobs are run. One that is not known there is no error."""
        if sites:
            body = {str(job): {"Site": site} for job, site in sites.items()}
            self._http.ask(self._pilot, "PATCH", "/api/jobs/metadata", budget, body)

    def beat(self, jobs: Sequence[int], budget: Budget) -> list[DiracCommand]:
        """Say that jobs are alive, and hear orders; one that had been matched or given up runs from then on. Where one
        is not known, none is said to be alive."""
        if not jobs:
            return []
        body: dict[str, dict[str, Any]] = {str(job): {} for job in jobs}
        answer = self._http.ask(self._pilot, "PATCH", "/api/jobs/heartbeat", budget, body, also=frozenset({_NOT_FOUND}))
        return [] if answer.status == _NOT_FOUND else answer.decoded(list[DiracCommand])

    def sandbox_place(self, sha256: str, size: int, ending: str, budget: Budget) -> SandboxPlace:
        """Ask where to send a sandbox. Idempotent."""
        facts = {"checksum_algorithm": "sha256", "checksum": sha256, "size": size, "format": ending}
        return self._http.ask(self._operator, "POST", "/api/jobs/sandbox", budget, facts).decoded(SandboxPlace)

    def sandbox_url(self, pfn: str, budget: Budget) -> str:
        """Ask where a sandbox is to be had."""
        answer = self._http.ask(self._operator, "GET", "/api/jobs/sandbox", budget, params={"pfn": pfn})
        return answer.decoded(SandboxUrl).url

    def output_sandboxes(self, job: int, budget: Budget) -> list[str]:
        """Name the output sandboxes of a job."""
        answer = self._http.ask(self._operator, "GET", f"/api/jobs/{job}/sandbox/output", budget)
        return answer.decoded(list[_Text])

    def assign_sandbox(self, job: int, pfn: str, budget: Budget) -> None:
        """Make a sandbox an output of a job. Once only: a second time is refused."""
        self._http.ask(self._operator, "PATCH", f"/api/jobs/{job}/sandbox/output", budget, pfn)

    def _rows(self, body: Mapping[str, Any], budget: Budget, page: int, most: int) -> list[DiracRow]:
        # A page beyond the last is answered with 416 and an empty list.
        answer = self._http.ask(
            self._operator,
            "POST",
            "/api/jobs/search",
            budget,
            body,
            {"page": page, "per_page": most},
            also=frozenset({416}),
        )
        self._clock.hear(answer.date, answer.read_s)
        return answer.decoded(list[DiracRow])

    def _hear(self, said: Iterable[Restated], read_s: float) -> None:
        for one in said:
            if one.last_update_time:
                self._clock.hear(one.last_update_time, read_s)
                return


def _update(told: Told) -> dict[str, str]:
    said = {
        "Status": told.status,
        "MinorStatus": clip(plain(told.minor), MOST_MINOR),
        "ApplicationStatus": clip(plain(told.application), MOST_APPLICATION),
    }
    return {**{key: text for key, text in said.items() if text}, "Source": SPEAKER}
