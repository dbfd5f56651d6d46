"""What a grid around a job costs: jobs of ``/bin/true`` that a source in memory gives, beside the same from our queue.

A grid's jobs are each by itself, with a description and a name of its own, and so they are submitted to our queue: all
at once, each in a message of its own. Ours ends when the last final status is told; in between each step of each end
has been written down.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.alternation import alternate
from benchmarks.figures import Figure
from benchmarks.grids.beside import beside_system
from benchmarks.jobs.ours import jobs_per_second
from schemas.ids import uuid7
from schemas.ledger import JobState
from volcloud import AsyncClient

#: Jobs of one run; a tenth as many go before, unmeasured, from our queue.
JOBS = 200
_POLL_S = 0.05
_PATIENCE_S = 300.0
_numbers = count(1)


def run(data: Path, *, runs: int) -> list[Figure]:
    """Measure jobs per second from the first question to the grid until it has been told the last end."""
    contestants = {
        "grid": partial(_from_grid, data),
        "queue": lambda: asyncio.run(_from_queue(data)),
        "array": partial(jobs_per_second, data, JOBS),
    }
    reached = alternate(contestants, runs, "jobs/s")
    return [
        Figure(
            name="grid jobs, beside our queue", unit="jobs/s", ours=reached["grid"], peer=reached["queue"], goal=0.7
        ),
        Figure(name="grid jobs, beside an array", unit="jobs/s", ours=reached["grid"], peer=reached["array"]),
    ]


def _from_grid(data: Path) -> float:
    asyncio.run(_warm_up(data))
    with beside_system(data, f"memory{next(_numbers)}", {"kind": "memory", "jobs": JOBS}) as source:
        began = source.wait_begun()
        return JOBS / (source.wait_told(JOBS) - began)


async def _warm_up(data: Path) -> None:
    async with await AsyncClient.connect(data) as client:
        await _run_all(client, JOBS // 10)


async def _from_queue(data: Path) -> float:
    async with await AsyncClient.connect(data) as client:
        await _run_all(client, JOBS // 10)
        began = time.perf_counter()
        await _run_all(client, JOBS)
        return JOBS / (time.perf_counter() - began)


async def _run_all(client: AsyncClient, jobs: int) -> None:
    """Submit jobs, each by itself, and wait until the ledger has every one done."""
    before = (await _counts(client)).get(JobState.DONE, 0)
    run = uuid7()[-12:]
    described = [{"id": f"true-{run}-{number}", "executable": "/bin/true"} for number in range(jobs)]
    await asyncio.gather(*(client.jobs.submit(one) for one in described))
    deadline = time.monotonic() + _PATIENCE_S
    while (counts := await _counts(client)).get(JobState.DONE, 0) < before + jobs:
        if counts.get(JobState.HELD) or time.monotonic() > deadline:
            raise RuntimeError(f"{jobs} jobs were submitted; there are {counts}")
        await asyncio.sleep(_POLL_S)


async def _counts(client: AsyncClient) -> dict[str, int]:
    return (await client.jobs.list(owner=client.user, limit=1)).counts
