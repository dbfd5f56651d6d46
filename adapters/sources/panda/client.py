"""What a PanDA server is asked: questions and answers with types, in bulk.

Facts of panda-server 1.0.4 by which it is written: a ``timeout`` of an acquire is not kept, but no job is begun with in
the last 10 s of it; an update of a try that is another now, or of a job that is not known, is success with the command
``tobekilled``; one mistake in a bulk is told of that job alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from adapters.errors import SourceUnavailable
from adapters.sources.http import Budget, Http, HttpAnswer
from adapters.sources.panda.answers import PandaStatus, UpdateAnswer, data_of, jobs_of, statuses_of, updates_of
from adapters.sources.panda.asks import MOST_JOBS, QueueAsk
from adapters.sources.panda.record import PandaJob
from adapters.sources.panda.settings import PandaSettings
from adapters.sources.panda.states import MOST_NODE
from adapters.sources.tokens import TokenFile

log = logging.getLogger(__name__)

#: Longest answer with jobs, bytes: one that is too long has its jobs lost, so that it is far above what is expected.
MOST_JOBS_BYTES = 64 << 20
#: Updates of one question, and what their reports of outputs may have together, characters.
MOST_UPDATES, MOST_REPORT_BYTES = 50, 4 << 20
#: Jobs whose status is asked for in one question: they are in its address.
MOST_ASKED = 100
#: What the server adds to the time that it is given for finding jobs, seconds; it takes the sum whole.
_NO_MORE_JOBS_S = 10
#: What the server says of a file of the cache that is there.
_IS_THERE = "cannot overwrite"


class PandaClient:
    """A PanDA server, with our credential. Every method raises SourceUnavailable and SourceRefused, and may be called
    from any thread."""

    def __init__(self, http: Http, cache: Http, token: TokenFile | None, settings: PandaSettings, name: str) -> None:
        self._http, self._cache, self._token, self._settings = http, cache, token, settings
        self._node = f"volunteer-cloud-{name}"[:MOST_NODE]

    def close(self) -> None:
        """Drop connections. Idempotent."""
        self._http.close()
        self._cache.close()

    def acquire(self, ask: QueueAsk, most: int, budget: Budget) -> list[PandaJob]:
        """Take jobs. Not idempotent: those of an answer that is lost stay ``sent`` until PanDA gives them up."""
        seconds = min(self._settings.timeout_s, budget.left_s())
        body = {
            "site_name": self._settings.queue,
            "n_jobs": min(most, MOST_JOBS),
            "node": self._node,
            "memory": ask.machine.memory_mib,
            "disk_space": ask.machine.disk_mib,
            "timeout": max(1, int(seconds / 2)) + _NO_MORE_JOBS_S,
            **({"prod_source_label": self._settings.label} if self._settings.label else {}),
            **({"resource_type": ask.resource_type} if ask.resource_type else {}),
        }
        answer = self._ask("acquire_jobs", budget, body, most_bytes=MOST_JOBS_BYTES)
        jobs, unnamed = jobs_of(answer)
        if unnamed:
            log.error("PanDA gave jobs that cannot be named: it has to give them up", extra={"count": unnamed})
        return jobs

    def update(self, updates: Sequence[Mapping[str, Any]], budget: Budget) -> Iterator[tuple[int, UpdateAnswer]]:
        """Tell of jobs, a portion at a time; gives what is said of each, by its place."""
        whose = {"site_name": self._settings.queue, "node": self._node}
        begin = 0
        for portion in portions_of(updates):
            job_list = [{**one, **whose} for one in portion]
            answer = self._ask("update_jobs_bulk", budget, {"job_list": job_list})
            yield from enumerate(updates_of(answer, len(portion)), begin)
            begin += len(portion)

    def look(self, jobs: Sequence[int], budget: Budget) -> dict[int, PandaStatus]:
        """Read how jobs are; one that is not known there is left out."""
        found: dict[int, PandaStatus] = {}
        for begin in range(0, len(jobs), MOST_ASKED):
            params = {"job_ids": list(jobs[begin : begin + MOST_ASKED])}
            path = "/api/v1/pilot/get_job_status"
            found |= statuses_of(self._http.ask(self._token, "GET", path, budget, params=params))
        return found

    def upload(self, name: str, file: BinaryIO, budget: Budget) -> None:
        """Put a file into the server's cache. Idempotent: one that is there under this name is the same."""
        path = "/api/v1/file_server/upload_cache_file"
        answer = self._cache.ask(self._token, "POST", path, budget, file=(name, file), within_s=budget.left_s())
        try:
            data_of(answer)
        except SourceUnavailable as error:
            if _IS_THERE not in str(error):
                raise

    def _ask(self, method: str, budget: Budget, body: Mapping[str, Any], **more: Any) -> HttpAnswer:
        return self._http.ask(self._token, "POST", f"/api/v1/pilot/{method}", budget, body, **more)


def portions_of(updates: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Take updates apart, in their order, into questions that are neither too many nor too long."""
    portion: list[Mapping[str, Any]] = []
    size = 0
    for one in updates:
        length = len(one.get("job_output_report", ""))
        if portion and (len(portion) == MOST_UPDATES or size + length > MOST_REPORT_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(one)
        size += length
    if portion:
        yield portion
