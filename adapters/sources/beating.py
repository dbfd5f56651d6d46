"""Telling a grid how far its jobs are, and stopping those that it wants stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from adapters.errors import NotFound
from adapters.ledger import assignments, orders, sources
from adapters.ledger.sources import OpenJob
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.sources.contract import GridJob, GridProgress, GridSource, Stop
from adapters.sources.lane import Lane
from schemas.codec import clip
from schemas.ids import JobRef
from schemas.ledger import JobCancel

log = logging.getLogger(__name__)

#: Jobs that a grid is told of in one call.
PORTION = 1000


class Beating:
    """See the module; ``turn`` is the lane's."""

    def __init__(self, name: str, source: GridSource, writer: LedgerWriter, lane: Lane, every_s: float) -> None:
        self._name, self._source, self._writer, self._lane = name, source, writer, lane
        self._every_s = every_s

    async def turn(self) -> float:
        """Tell of all that wait or are at work, and of those whose end is still to be delivered."""
        there = await self._writer.read(lambda tx: sources.open_jobs(tx, self._name))
        for start in range(0, len(there), PORTION):
            await self._tell(there[start : start + PORTION])
        return self._every_s

    async def _tell(self, jobs: Sequence[OpenJob]) -> None:
        read = ((one, read_grid_job(one.source_data)) for one in jobs)
        named = {(grid.id, grid.attempt): (one, grid) for one, grid in read if grid is not None}
        told = [GridProgress(job=grid, state=one.state, started_ms=one.started_ms) for one, grid in named.values()]
        for stop in await self._lane.call(self._source.beat, told):
            found = named.get((stop.id, stop.attempt))
            if found is not None and not found[0].has_ended:
                await self._stop(found[0].job, stop)

    async def _stop(self, job: JobRef, stop: Stop) -> None:
        log.info("stopped by its grid", extra={"job": job, "why": stop.why})
        by = clip(f"{self._name}: {stop.why}", 200)

        def work(tx: Tx) -> None:
            orders.cancel(tx, JobCancel(job=job), by=by)
            assignments.match(tx)

        try:
            await self._writer.write(work)
        except NotFound:
            log.info("gone before it was stopped", extra={"job": job})


def read_grid_job(source_data: bytes) -> GridJob | None:
    """Read what was kept with a submission. What cannot be read names no job of any grid."""
    try:
        return msgspec.msgpack.decode(source_data, type=GridJob)
    except msgspec.DecodeError as error:
        log.error("what was kept of a grid's job cannot be read", extra={"why": str(error)})
        return None
