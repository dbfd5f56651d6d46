"""What a grid is asked that has nothing, by an adapter with a hundred free slots: questions a minute to a real DiracX.

Every question is really asked, through a front that counts; the pauses between are what the adapter says, and are added
up, not waited for. A refresh of the token counts as often as it would be due.
"""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from adapters.ledger.engine import Ledger
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.sources.acquiring import Acquiring
from adapters.sources.beating import Beating
from adapters.sources.config import SourceAdapterConfig
from adapters.sources.contract import GridSource
from adapters.sources.dirac import make_dirac
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.lane import Lane, Troubles
from benchmarks.alternation import alternate
from benchmarks.arena import RoleFailed
from benchmarks.figures import Figure
from benchmarks.grids.diracx import Grid, settings
from benchmarks.ledger.world import World, idle, request, vm_name
from broker.memory import MemoryCarrier
from tests.sources.front import Front

#: Slots that ask, and how often the grid is asked in a run.
SLOTS, TURNS = 100, 60
_NAME = "idle"


def run(directory: Path, grid: Grid, *, runs: int) -> list[Figure]:
    """Measure in an adapter of this process, with its usual settings."""
    reached = alternate({"calls": partial(_one, directory, grid)}, runs, "calls/min")
    return [Figure(name="calls to a grid without jobs", unit="calls/min", ours=reached["calls"], goal=1.0)]


def _one(directory: Path, grid: Grid) -> float:
    front = Front(grid.peer.url)
    with tempfile.TemporaryDirectory(dir=directory) as place:
        source = make_dirac(DiracSettings(**settings(grid, Path(place), front.url)), _NAME)
        try:
            waited_s = asyncio.run(_ask(source, Path(place)))
        finally:
            source.close()
            front.close()
    if front.asked.total() < TURNS:
        raise RoleFailed(f"the grid was asked {front.asked.total()} times in {TURNS} turns")
    return (front.asked.total() + waited_s / grid.token_s) / (waited_s / 60)


async def _ask(source: GridSource, directory: Path) -> float:
    """Ask as often as a run does; gives for how long the adapter would have waited, seconds."""
    ledger = Ledger(f"sqlite:///{directory}/ledger.db", instance="adapter-source-idle")
    ledger.open()
    World(ledger, 0, SLOTS).ask(*((vm_name(number), request(idle(number))) for number in range(SLOTS)))
    wire = MemoryCarrier("adapter-source-idle")
    writer = LedgerWriter(wire, ledger, Metrics(wire.user, CollectorRegistry()))
    usual = SourceAdapterConfig(credential="", ledger="", store="", staging="", name=_NAME, source={})
    lane = Lane("acquire", Troubles())
    asking = Acquiring(_NAME, source, writer, lane, usual.most_at_once, source.longest_pause_s)
    beating = Beating(_NAME, source, writer, Lane("beat", Troubles()), usual.beat_every_s)
    try:
        waited_s = 0.0
        for _ in range(TURNS):
            waited_s += await asking.turn()
            await beating.turn()
        return waited_s
    finally:
        await writer.close()
        ledger.close()
