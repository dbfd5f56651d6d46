"""A source adapter between a grid in memory and a ledger, with guests played by the desk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select

from adapters.errors import SourceUnavailable
from adapters.ledger import sources, tables
from adapters.ledger.acquisitions import owner_of
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.sources import acquiring, delivering, lane, staging
from adapters.sources.adapter import SourceAdapter
from adapters.sources.config import SourceAdapterConfig
from adapters.sources.contract import GridInput, GridSource, GridWork
from adapters.sources.memory import Failing, MemoryGrid, MemorySource, final_states
from adapters.storage.store import FsspecStore
from broker.memory import MemoryCarrier
from schemas.codec import decode, unbundle
from schemas.description import Requirements
from schemas.files import OutputFile
from schemas.grids import SourceList, SourceRow
from schemas.jobs import JobAssign, OutputEntry
from schemas.ledger import JobState
from tests.broker.polling import until
from tests.contract.ledger_fixtures import Desk, fresh_sqlite

OWNER = owner_of("lyon")


class Rig:
    """A grid, a ledger, a store, and adapters between them."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.grid = directory, MemoryGrid()
        self.desk = Desk(fresh_sqlite(directory))
        self.store = FsspecStore(f"file://{directory}/store")
        self.wires: list[MemoryCarrier] = []

    @asynccontextmanager
    async def adapter(self, source: Any = None, **settings: Any) -> AsyncIterator[SourceAdapter]:
        """Run an adapter for as long as the context lasts; ``source`` is the grid's unless said."""
        fields = {"credential": "", "ledger": "", "store": "", "name": "lyon", "source": {"kind": "memory"}}
        quick = {"staging": str(self.directory / "staging"), "beat_every_s": 0.05, "longest_pause_s": 2.0}
        config = SourceAdapterConfig(**{**fields, **quick, **settings})  # type: ignore[arg-type]
        wire = MemoryCarrier("adapter-source-lyon")
        self.wires.append(wire)
        metrics = Metrics(wire.user, CollectorRegistry())
        port: GridSource = source or MemorySource(self.grid)
        adapter = SourceAdapter(wire, self.desk.ledger, self.store, metrics, port, config)
        running = asyncio.create_task(adapter.run())
        try:
            yield adapter
        finally:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    async def start(self, vm: str = "vm-1") -> JobAssign:
        """Have a VM ask until it has a job."""
        before = len(self.assigned(vm))
        self.desk.ask(vm)
        await until(lambda: len(self.assigned(vm)) > before)
        return self.assigned(vm)[-1]

    def assigned(self, vm: str) -> list[JobAssign]:
        """Give what a VM was assigned, by the desk's transactions or an adapter's."""
        sent = [decode(one) for wire in self.wires for _, _, body in wire.sent for one in unbundle(body)]
        made = [*self.desk.assigned(), *(one for one in sent if isinstance(one, JobAssign))]
        return [one for one in made if one.target == vm]

    def leave(self, job: JobAssign, content: bytes = b"hi\n", name: str = "stdout", **more: Any) -> None:
        """Have its guest end a job with an output."""
        self.store.put_bytes(content, OutputFile(job=job.job, attempt=job.attempt, name=name))
        entry = OutputEntry(name=name, size=len(content), sha256=sha256(content).hexdigest())
        self.desk.complete(job, outputs=[entry], **{"exit_status": 0, **more})

    def seen(self) -> SourceRow:
        page = self.desk.ledger.read(lambda tx: sources.listed(tx, SourceList()))
        return page.sources[0]

    def count(self, table: Any) -> int:
        return int(self.desk.ledger.read(lambda tx: tx.execute(select(func.count()).select_from(table)).scalar_one()))


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    for module in (acquiring, staging, delivering):
        monkeypatch.setattr(module, "LOOK_S", 0.05)
    monkeypatch.setattr(lane, "FIRST_S", 0.05)
    return Rig(tmp_path)


async def test_a_grids_job_runs_here_and_its_grid_has_its_output_and_its_final_status(rig: Rig) -> None:
    work = GridWork(
        executable="run.sh",
        arguments=["1"],
        inputs=[GridInput(name="run.sh", where="lfn:run", executable=True)],
        requirements=Requirements(cpus=1),
    )
    name = rig.grid.submit(work, {"lfn:run": b"#!/bin/sh\n"}, secret=b"pilot secret")
    async with rig.adapter():
        job = await rig.start()
        rig.desk.beat(job)
        await until(lambda: (at := rig.grid.jobs[name].progress) and at.state is JobState.RUNNING)
        rig.leave(job)
        await until(lambda: rig.grid.ended() and not rig.count(tables.deliveries))

    (told,) = rig.grid.jobs[name].finals
    assert (job.executable, job.arguments, job.job) == ("run.sh", ["1"], f"{OWNER}/1-1.1")
    assert [(one.name, one.executable) for one in job.inputs] == [("run.sh", True)]
    assert (told.state, told.exit_status, told.sandbox) == (JobState.DONE, 0, "sandbox-of-1")
    assert rig.grid.jobs[name].outputs == {"stdout": b"hi\n"}
    assert rig.grid.jobs[name].registered == 1
    assert b"pilot secret" not in msgspec.msgpack.encode(job)
    assert rig.count(tables.acquisitions) == 0


async def test_no_more_is_asked_for_than_there_are_free_slots(rig: Rig) -> None:
    for _ in range(10):
        rig.grid.submit(GridWork(executable="/bin/true"))
    async with rig.adapter():
        for vm in ("vm-1", "vm-2"):
            await rig.start(vm)
        await until(lambda: rig.grid.calls["beat"] > 5)

    assert [job.state for job in rig.grid.jobs.values()] == ["taken"] * 2 + ["waiting"] * 8


async def test_a_grid_that_has_nothing_is_asked_less_than_once_a_minute_and_at_once_for_more_after_it_gave_some(
    rig: Rig,
) -> None:
    for number in range(100):
        rig.desk.ask(f"vm-{number}")
    random.seed(7)
    hand = lane.Lane("acquire", lane.Troubles())
    wire = MemoryCarrier("adapter-source-lyon")
    writer = LedgerWriter(wire, rig.desk.ledger, Metrics(wire.user, CollectorRegistry()))
    asking = acquiring.Acquiring("lyon", MemorySource(rig.grid), writer, hand, 100, 150.0)

    pauses = [await asking.turn() for _ in range(40)]
    asked = rig.grid.calls["acquire"]
    rig.grid.submit(GridWork(executable="/bin/true"))
    after = await asking.turn()
    hand.close()
    await writer.close()

    assert (asked, sum(pauses) / len(pauses) > 60) == (40, True)
    assert pauses[0] <= 2.0
    assert after == acquiring.LOOK_S
    assert rig.seen().given_ms > 0


async def test_what_the_grid_stops_is_stopped_and_told_as_such(rig: Rig) -> None:
    name = rig.grid.submit(GridWork(executable="/bin/sleep", arguments=["1000"]))
    async with rig.adapter():
        job = await rig.start()
        rig.desk.beat(job)
        rig.grid.kill(name)
        await until(rig.grid.ended)

    record = rig.desk.show("1-1", OWNER)
    assert record.job.state is JobState.CANCELLED
    assert "lyon: killed by its user" in record.job.reason or "killed by its user" in str(record.events)
    assert final_states(rig.grid) == {JobState.CANCELLED: 1}


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (None, "could not say what is to be done"),
        (GridWork(executable="x", inputs=[GridInput(name="a", where="lfn:gone")]), "the grid has no file lfn:gone"),
        (GridWork(executable="x", environment={"A": "1" * 600_000}), "environment"),
        (GridWork(executable="x", environment={f"A{n}": "1" * 10_000 for n in range(200)}), "at most 1048576 go into"),
        (GridWork(executable="x", wall_time_s=-1.0), "wall_time_s"),
        (GridWork(executable="x", inputs=[GridInput(name="../a", where="there")]), "name"),
        (GridWork(executable="x", outputs=["../../etc/passwd"]), "outputs"),
    ],
)
async def test_a_job_that_cannot_be_done_is_told_its_grid_with_the_reason(
    rig: Rig, work: GridWork | None, says: str
) -> None:
    rig.desk.ask("vm-1")
    rig.grid.submit(work, {"there": b"x"})
    async with rig.adapter():
        await until(lambda: rig.grid.ended() and not rig.count(tables.acquisitions))

    ((ending,),) = [job.finals for job in rig.grid.ended()]
    assert ending.state is JobState.HELD
    assert says in ending.cause
    assert rig.count(tables.jobs) == 0


async def test_a_payload_that_fails_is_told_as_failed(rig: Rig) -> None:
    rig.grid.submit(GridWork(executable="/bin/false"))
    async with rig.adapter():
        job = await rig.start()
        from schemas.jobs import Outcome

        rig.desk.complete(job, Outcome.FAILED, exit_status=7)
        await until(rig.grid.ended)

    ((ending,),) = [job.finals for job in rig.grid.ended()]
    assert (ending.state, ending.exit_status) == (JobState.HELD, 7)


class Faults:
    """Gives an error for the first so many calls of a method, before it is carried out or after."""

    def __init__(self, method: str, when: str, times: int = 1, error: Callable[[], Exception] | None = None) -> None:
        self.method, self.when, self.left = method, when, times
        self.error = error or (lambda: SourceUnavailable("503 Service Unavailable"))

    def __call__(self, method: str, when: str) -> Exception | None:
        if (method, when) != (self.method, self.when) or not self.left:
            return None
        self.left -= 1
        return self.error()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["stage_in", "beat", "stage_out", "register", "finish"])
@pytest.mark.parametrize("error", [None, lambda: ValueError("<html>")], ids=["away", "nonsense"])
async def test_a_call_that_fails_or_whose_answer_is_lost_is_made_again_and_counts_once(
    rig: Rig, method: str, when: str, error: Callable[[], Exception] | None
) -> None:
    work = GridWork(executable="run.sh", inputs=[GridInput(name="run.sh", where="lfn:run")])
    rig.grid.submit(work, {"lfn:run": b"#!/bin/sh\n"})
    faults = Faults(method, when, error=error)
    async with rig.adapter(Failing(MemorySource(rig.grid), faults)):
        rig.desk.ask("vm-1")
        while not rig.assigned("vm-1"):
            rig.desk.pass_s(60)
            await asyncio.sleep(0.01)
        await until(lambda: method != "beat" or not faults.left)
        rig.leave(rig.assigned("vm-1")[0])
        while not rig.grid.ended():
            rig.desk.pass_s(60)
            await asyncio.sleep(0.01)

    assert faults.left == 0
    assert final_states(rig.grid) == {JobState.DONE: 1}
    assert rig.grid.jobs["1"].outputs == {"stdout": b"hi\n"}
    assert len(rig.assigned("vm-1")) == 1
