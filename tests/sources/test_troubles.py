"""The table of troubles: whatever is wrong with a grid, or with one of its jobs, for each kind of grid.

Nothing is lost and nothing done twice; another source's jobs go on at their pace; an operator sees what is wrong and
since when, and whoever asks after a job sees it there too; threads and connections stay few.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.ledger import tables
from adapters.sources import adapter, at_work, lane
from adapters.sources.contract import Acquired, GridSource, GridWork, Offer
from adapters.sources.delivering import AT_ONCE
from adapters.sources.memory import MemoryGrid, MemorySource
from schemas.jobs import JobAssign
from schemas.ledger import JobRecord, JobState
from tests.broker.polling import until
from tests.sources.diracx_peer import diracx_fixture
from tests.sources.rig import OWNER, Rig, hasten
from tests.sources.troubled import TWICE, Dirac, InMemory, Panda, Spooled, Troubled

__all__ = ["diracx_fixture"]

KINDS: dict[str, type[Troubled]] = {"memory": InMemory, "spool": Spooled, "dirac": Dirac, "panda": Panda}
WHOLE = [(kind, trouble) for kind, grid in KINDS.items() for trouble in grid.troubles]
ONE_JOB = [(kind, flaw) for kind, grid in KINDS.items() for flaw in grid.flaws]
#: Calls that an adapter may have under way: its lanes' places.
MOST_CALLS = 1 + AT_ONCE + 1 + AT_ONCE + 1
#: How long another source's job may take beside a grid in trouble, seconds; it is some tenths.
PATIENCE_S = 15.0


@pytest.fixture
def grid(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Troubled]:
    made: Any = Dirac(request.getfixturevalue("diracx"), tmp_path) if kind == "dirac" else KINDS[kind](tmp_path)  # type: ignore[call-arg]
    yield made
    made.close()


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    hasten(monkeypatch)
    monkeypatch.setattr(lane, "LONGEST_S", 0.5)
    monkeypatch.setattr(lane, "SILENT_S", 0.5)
    monkeypatch.setattr(adapter, "TELL_S", 0.1)
    monkeypatch.setattr(at_work, "RENEW_S", 0.05)
    made = Rig(tmp_path)
    async with made.clock():
        yield made


class OtherSource:
    """A grid with no trouble, whose jobs are done beside the one that is in it."""

    def __init__(self, rig: Rig) -> None:
        self.grid, self._rig, self._count = MemoryGrid(), rig, 0

    async def does_a_job(self) -> None:
        """See one of its jobs through."""
        self._count += 1
        began_s = time.monotonic()
        self.grid.submit(GridWork(executable="/bin/true"))
        self._rig.desk.ask(f"vm-other-{self._count}")
        await until(lambda: len(self._rig.assigned_of("oslo")) == self._count)
        self._rig.leave(self._rig.assigned_of("oslo")[-1])
        await until(lambda: len(self.grid.ended()) == self._count)
        assert time.monotonic() - began_s < PATIENCE_S


def calls_under_way() -> int:
    return sum(thread.name.startswith("source ") for thread in threading.enumerate())


@contextmanager
def bounded(grid: Troubled) -> Iterator[list[int]]:
    """Hold the calls that are under way, each a thread, and connections against their bounds at the end."""
    seen: list[int] = []
    yield seen
    assert max(seen) <= 2 * MOST_CALLS, "more calls at once than two adapters may have"
    assert grid.connections() <= MOST_CALLS + 1


def shown(rig: Rig, job: JobAssign) -> JobRecord:
    """Give what ``volcloud job why`` and ``show`` are told."""
    return rig.desk.show(job.job.partition("/")[2], OWNER)


def in_trouble(rig: Rig, source: str = "lyon") -> float | None:
    [found] = [
        sample.value
        for metric in rig.registries[source].collect()
        for sample in metric.samples
        if sample.name == "vc_source_trouble"
    ]
    return found


async def sees(rig: Rig, words: str) -> None:
    """Have an operator see what is wrong and since when, in the list and in the metric."""
    lanes = {name: words.replace("acquire:", f"{name}:") for name in ("acquire", "beat", "deliver", "report")}
    await until(lambda: any(one in rig.seen().trouble for one in lanes.values()), 30)
    assert rig.seen().trouble_ms > 0
    await until(lambda: in_trouble(rig) == 1)


async def sees_nothing_wrong(rig: Rig) -> None:
    await until(lambda: not rig.seen().trouble and in_trouble(rig) == 0, 30)


@pytest.mark.parametrize(("kind", "trouble"), WHOLE)
async def test_a_grid_that_is_in_trouble_from_the_start_is_asked_until_it_is_over(
    rig: Rig, grid: Troubled, kind: str, trouble: str
) -> None:
    other = OtherSource(rig)
    name = grid.submit()
    grid.begin(trouble)
    with bounded(grid) as calls:
        async with rig.adapter(grid.source(trouble)), rig.adapter(MemorySource(other.grid), name="oslo"):
            rig.desk.ask("vm-1")
            await sees(rig, grid.troubles[trouble])
            for _ in range(3):
                await other.does_a_job()
                calls.append(calls_under_way())
            assert not rig.assigned_of("lyon")
            grid.over()
            await until(lambda: rig.assigned_of("lyon"), 30)
            rig.leave(rig.assigned_of("lyon")[0])
            await rig.until(lambda: grid.finals(name) and not rig.count(tables.deliveries), every_s=0.5)
            await sees_nothing_wrong(rig)

    assert grid.finals(name) == ["done"]
    assert rig.count(tables.jobs) == 4


@pytest.mark.parametrize(("kind", "trouble"), WHOLE)
async def test_a_grid_that_is_in_trouble_for_an_hour_hears_of_the_end_of_its_job_once_it_is_over(
    rig: Rig, grid: Troubled, kind: str, trouble: str
) -> None:
    other = OtherSource(rig)
    name = grid.submit()
    with bounded(grid) as calls:
        async with rig.adapter(grid.source(trouble)), rig.adapter(MemorySource(other.grid), name="oslo"):
            job = await rig.start()
            rig.desk.beat(job)
            grid.begin(trouble)
            began_ms = rig.desk.now_ms
            rig.leave(job)
            await sees(rig, grid.troubles[trouble])
            for _ in range(3):
                await other.does_a_job()
                calls.append(calls_under_way())
            await rig.until(lambda: rig.desk.now_ms - began_ms > 3_600_000, every_s=0.15, step_s=240)
            told = shown(rig, job).cause
            owed = rig.seen().owed
            grid.over()
            await rig.until(lambda: grid.finals(name) and not rig.count(tables.deliveries), every_s=0.2, step_s=240)
            await sees_nothing_wrong(rig)

    assert told.startswith("done here; ")
    assert "lyon" in told
    assert owed == 1
    assert grid.finals(name) == ["done"]
    assert len(rig.assigned_of("lyon")) == 1


@pytest.mark.parametrize(("kind", "flaw"), ONE_JOB)
async def test_a_job_that_nobody_can_do_is_told_with_the_reason_and_is_no_other_jobs_trouble(
    rig: Rig, grid: Troubled, kind: str, flaw: str
) -> None:
    other = OtherSource(rig)
    bad, good = grid.submit(flaw), grid.submit()
    async with rig.adapter(grid.source()), rig.adapter(MemorySource(other.grid), name="oslo"):
        job = await rig.start()
        rig.leave(job)
        await other.does_a_job()
        await rig.until(
            lambda: grid.finals(good) and grid.finals(bad) and not rig.count(tables.acquisitions), every_s=0.5
        )

    assert (grid.finals(good), grid.finals(bad)) == (["done"], ["failed"])
    assert grid.flaws[flaw] in grid.reason(bad)
    assert rig.count(tables.jobs) == 2


class GivenAgain:
    """A source whose grid gives with each answer all that it ever gave."""

    def __init__(self, source: GridSource) -> None:
        self._source, self._given = source, list[Acquired]()
        self.times = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def acquire(self, offers: Sequence[Offer], most: int, taking: str = "") -> Sequence[Acquired]:
        self._given += self._source.acquire(offers, most, taking)
        self.times += bool(self._given)
        return list(self._given)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_that_is_handed_out_again_and_again_runs_once(rig: Rig, grid: Troubled, kind: str) -> None:
    name = grid.submit()
    source: Any = GivenAgain(grid.source())
    async with rig.adapter(source):
        job = await rig.start()
        rig.desk.ask("vm-2")
        rig.desk.beat(job)
        seen = source.times
        await until(lambda: source.times > seen + 2, 30)
        rig.leave(job)
        await rig.until(lambda: grid.finals(name), every_s=0.5)
        seen = source.times
        await until(lambda: source.times > seen + 2, 30)
        await rig.until(lambda: not rig.count(tables.acquisitions) and not rig.count(tables.deliveries), every_s=0.5)

    assert len(rig.assigned_of("lyon")) == 1
    assert grid.finals(name) == ["done"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_that_its_grid_forgets_is_stopped_and_holds_up_nothing(rig: Rig, grid: Troubled, kind: str) -> None:
    other = OtherSource(rig)
    lost, kept = grid.submit(), grid.submit()
    async with rig.adapter(grid.source()), rig.adapter(MemorySource(other.grid), name="oslo"):
        jobs = [await rig.start("vm-1"), await rig.start("vm-2")]
        for job in jobs:
            rig.desk.beat(job)
        [gone] = [job for job in jobs if job.job.startswith(f"{OWNER}/{lost}-")]
        [stays] = [job for job in jobs if job is not gone]
        grid.forget(lost)
        await until(lambda: shown(rig, gone).job.state is JobState.CANCELLED, 30)
        rig.leave(stays)
        await other.does_a_job()
        await rig.until(lambda: grid.finals(kept), every_s=0.5)
        told = shown(rig, gone).cause

    assert grid.finals(kept) == ["done"]
    assert told


@pytest.mark.parametrize("kind", ["dirac", "panda"])
async def test_a_server_that_gives_each_answer_twice_is_understood(rig: Rig, grid: Troubled, kind: str) -> None:
    grid.begin(TWICE)
    names = [grid.submit() for _ in range(3)]
    async with rig.adapter(grid.source()):
        for _ in names:
            rig.leave(await rig.start())
        await rig.until(lambda: all(grid.finals(name) for name in names), every_s=0.5)
        await sees_nothing_wrong(rig)

    assert [grid.finals(name) for name in names] == [["done"]] * 3
