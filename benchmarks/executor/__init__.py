"""Python calls in guests: a map of a function that does nothing, beside an array of as many jobs of ``/bin/true``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks.alternation import alternate
from benchmarks.arena import Arena
from benchmarks.figures import Figure
from benchmarks.jobs.ours import jobs_per_second, system
from volcloud.executor.executor import VolunteerExecutor

#: Calls of one run, and of a quick one.
CALLS, QUICK_CALLS = 1000, 100


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure from the first submission until the last result is here, or the ledger has every job done."""
    calls = QUICK_CALLS if quick else CALLS
    with system(arena.directory / "calls") as data:
        contestants = {
            "map": partial(_calls_per_second, data, calls),
            "array": partial(jobs_per_second, data, calls),
        }
        reached = alternate(contestants, runs, "calls/s")
    return [
        Figure(name="map, beside an array", unit="calls/s", ours=reached["map"], peer=reached["array"], goal=0.8),
    ]


def _calls_per_second(data: Path, calls: int) -> float:
    with VolunteerExecutor(data) as pool:
        [*pool.map(_nothing, range(calls // 10))]
        began = perf_counter()
        results = [*pool.map(_nothing, range(calls))]
        took_s = perf_counter() - began
    if results != [None] * calls:
        raise RuntimeError(f"{len(results)} results of {calls} calls")
    return calls / took_s


def _nothing(number: int) -> None:
    return None
