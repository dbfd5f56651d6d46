"""Telling a grid how far its jobs are, and stopping those that it wants stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from adapters.errors import NotFound
from adapters.ledger import acquisitions, assignments, orders, sources
from adapters.ledger.acquisitions import AcquisitionKey
from adapters.ledger.sources import OpenJob
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.sources.contract import GridJob, GridProgress, GridSource, Stop
from adapters.sources.lane import Lane
from schemas.codec import clip
from schemas.ids import JobRef
from schemas.ledger import JobCancel, JobState

log = logging.getLogger(__name__)

#: Jobs that a grid is told of in one call.
PORTION = 1000


class _Named(NamedTuple):
    """A job that its grid is told of: one of ours, or one that is still to become one."""

    progress: GridProgress
    job: OpenJob | None = None
    acquisition: AcquisitionKey | None = None


class Beating:
    """See the module; ``turn`` is the lane's."""

    def __init__(self, name: str, source: GridSource, writer: LedgerWriter, lane: Lane, every_s: float) -> None:
        self._name, self._source, self._writer, self._lane = name, source, writer, lane
        self._every_s = every_s

    async def turn(self) -> float:
        """Tell of all that the grid has given: what is on its way to us, waits or is at work, and of those whose end is
        still to be delivered."""
        there = await self._writer.read(lambda tx: _named(tx, self._name))
        for start in range(0, len(there), PORTION):
            await self._tell(there[start : start + PORTION])
        return self._every_s

    async def _tell(self, jobs: Sequence[_Named]) -> None:
        named = {(one.progress.job.id, one.progress.job.attempt): one for one in jobs}
        for stop in await self._lane.call(self._source.beat, [one.progress for one in named.values()]):
            found = named.get((stop.id, stop.attempt))
            if found is not None:
                await self._stop(found, stop)

    async def _stop(self, one: _Named, stop: Stop) -> None:
        """What has ended here is told that it has, whatever its grid wants of it."""
        if one.acquisition is not None:
            key = one.acquisition
            log.info("stopped by its grid before it was a job here", extra={"job": stop.id, "why": stop.why})
            await self._writer.write(lambda tx: acquisitions.stop(tx, key, stop.why))
        elif one.job is not None and not one.job.has_ended:
            await self._cancel(one.job.job, stop)

    async def _cancel(self, job: JobRef, stop: Stop) -> None:
        log.info("stopped by its grid", extra={"job": job, "why": stop.why})
        by = clip(f"{self._name}: {stop.why}", 200)

        def work(tx: Tx) -> None:
            orders.cancel(tx, JobCancel(job=job), by=by)
            assignments.match(tx)

        try:
            await self._writer.write(work)
        except NotFound:
            log.info("gone before it was stopped", extra={"job": job})


def _named(tx: Tx, source: str) -> list[_Named]:
    """Name the jobs of a source, each once: what has become a job of ours meanwhile is one."""
    found: dict[tuple[str, int], _Named] = {}
    for key, data in acquisitions.brought(tx, source, sources.MOST_OPEN):
        grid = GridJob(id=key.id, attempt=key.attempt, data=data)
        progress = GridProgress(job=grid, state=JobState.SUBMITTED)
        found[key.id, key.attempt] = _Named(progress, acquisition=key)
    for one in sources.open_jobs(tx, source):
        if (job := read_grid_job(one.source_data)) is not None:
            progress = GridProgress(job=job, state=one.state, started_ms=one.started_ms)
            found[job.id, job.attempt] = _Named(progress, job=one)
    return list(found.values())


def read_grid_job(source_data: bytes) -> GridJob | None:
    """Read what was kept with a submission. What cannot be read names no job of any grid."""
    try:
        return msgspec.msgpack.decode(source_data, type=GridJob)
    except msgspec.DecodeError as error:
        log.error("what was kept of a grid's job cannot be read", extra={"why": str(error)})
        return None
