"""Jobs of grids: what coming from a grid and going back to it costs, beside what it could cost at best.

The peers of the tests stand here too, a real DiracX, XRootD and Rucio on loopback: a benchmark is no product, and
measures on what the tests are made on.
"""

from __future__ import annotations

from benchmarks.arena import Arena
from benchmarks.figures import Figure
from benchmarks.grids import delivery, diracx, idle, overhead
from benchmarks.jobs.ours import system

#: Slots of each of two VMs, for a grid that is asked in bulk.
SLOTS = 25


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure in turns, one room after the other."""
    with system(arena.directory / "overhead") as data:
        figures = overhead.run(data, runs=runs)
    with diracx.grid(arena.directory) as grid:
        figures += idle.run(arena.directory, grid, runs=runs)
        with system(arena.directory / "bulk", cpus=SLOTS) as data:
            figures += diracx.run(data, grid, runs=runs, quick=quick)
    return figures + delivery.run(arena, runs=runs, quick=quick)
