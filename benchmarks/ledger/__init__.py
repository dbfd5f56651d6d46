"""The ledger alone: how long each thing takes with few jobs and machines, and with many. Needs no broker.

``python -m benchmarks ledger``: ms per operation, a column a size; what takes more than twice as long at the largest
size as at the smallest has missed its goal. Times are of the processor, so that other load does not count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.alternation import say
from benchmarks.figures import Figure, percentile
from benchmarks.ledger.operations import CANCEL, IN_VAIN, OPERATIONS, SWEEP, measure
from benchmarks.ledger.world import build


class Size(NamedTuple):
    """How much there is."""

    jobs: int
    vms: int

    def __str__(self) -> str:
        return f"{self.jobs:,} jobs {self.vms:,} VMs"


SIZES = (Size(1_000, 1_000), Size(10_000, 1_000), Size(100_000, 1_000), Size(100_000, 10_000))
QUICK_SIZES = (Size(1_000, 200), Size(4_000, 400))
#: The most that an operation may take at the largest size, as a multiple of the smallest.
MOST_GROWTH = 2.0

Times = Mapping[str, Sequence[float]]


def run(*, quick: bool) -> list[Figure]:
    """Build a ledger of each size, do everything in each, print the table, and give the growth of each operation."""
    sizes = QUICK_SIZES if quick else SIZES
    measured = []
    for size in sizes:
        say(f"ledger: {size} …")
        with tempfile.TemporaryDirectory(prefix="volcloud-bench-") as directory:
            world = build(Path(directory) / "ledger.db", *size)
            measured.append(measure(world, lambda name, size=size: say(f"ledger: {size}: {name}")))
            world.ledger.close()
    print(table(sizes, measured), flush=True)
    return growths(measured)


def growths(measured: Sequence[Times]) -> list[Figure]:
    """Compare the largest size with the smallest."""
    first, last = measured[0], measured[-1]
    growth = {name: typical(last[name]) / typical(first[name]) for name in OPERATIONS}
    return [Figure(name=f"ledger: {name}", unit="x", ours=(value,), goal=MOST_GROWTH) for name, value in growth.items()]


def typical(times: Sequence[float]) -> float:
    """Give the lower quartile: what others do to the caches of the processor only adds."""
    return percentile(list(times), 0.25)


def table(sizes: Sequence[Size], measured: Sequence[Times]) -> str:
    """Write ms per operation, a column a size."""
    heads = "".join(f"{size.jobs:>9,} j {size.vms:>6,} v" for size in sizes)
    lines = [f"{'ms of CPU, lower quartiles':<38}{heads}"]
    for name in (*OPERATIONS, IN_VAIN, CANCEL, SWEEP):
        lines.append(f"{name:<38}" + "".join(f"{typical(times[name]):>20.2f}" for times in measured))
    return "\n".join(lines) + "\n"
