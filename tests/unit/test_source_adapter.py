"""A source adapter between a grid in memory and a ledger, with guests played by the desk."""

from __future__ import annotations

import asyncio
import random
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select, update

from adapters.catalogues.contract import Replica
from adapters.catalogues.memory import MemoryCatalogue
from adapters.errors import (
    CatalogueUnavailable,
    GridStoreRefused,
    LedgerUnavailable,
    SandboxTooLarge,
    SourceRefused,
    SourceUnavailable,
)
from adapters.grid_stores.memory import MemoryGridStore
from adapters.grid_stores.names import copy_name
from adapters.ledger import acquisitions, deliveries, requests, sources, tables, takings
from adapters.ledger.acquisitions import MOST_LOST, SUSPECT, Acquisition, AcquisitionKey
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.sources import acquiring, delivering, lane, lost_takings, reporting
from adapters.sources.adapter import SourceAdapter
from adapters.sources.contract import Acquired, GridEnding, GridInput, GridJob, GridWork, Offer
from adapters.sources.memory import Failing, MemoryGrid, MemorySource, final_states
from adapters.sources.workplace import Workplace
from broker.memory import MemoryCarrier
from schemas.description import Requirements
from schemas.grids import SourceRetry
from schemas.jobs import JobAssign
from schemas.ledger import JobState
from tests.broker.polling import until
from tests.contract.ledger_fixtures import SMALL
from tests.sources.rig import OWNER, Rig, hasten


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    hasten(monkeypatch)
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
    assert list((rig.directory / "staging").iterdir()) == []


def test_what_a_killed_adapter_has_left_on_its_way_is_gone_and_what_another_has_there_stays(tmp_path: Path) -> None:
    (tmp_path / "run-killed/in-1").mkdir(parents=True)

    first, second = Workplace(tmp_path), Workplace(tmp_path)

    assert sorted(tmp_path.iterdir()) == sorted([first.path, second.path])
    for one in (first, second, first):
        one.close()
    assert list(tmp_path.iterdir()) == []


async def test_no_more_is_asked_for_than_there_are_free_slots(rig: Rig) -> None:
    for _ in range(10):
        rig.grid.submit(GridWork(executable="/bin/true"))
    async with rig.adapter():
        for vm in ("vm-1", "vm-2"):
            await rig.start(vm)
        await until(lambda: rig.grid.calls["beat"] > 5)

    assert [job.state for job in rig.grid.jobs.values()] == ["taken"] * 2 + ["waiting"] * 8


def ask_ahead(rig: Rig, vm: str, lanes: int) -> None:
    """Have a slot that is at work ask for so many jobs ahead."""
    asked = msgspec.structs.replace(rig.desk.request(), slot=1, more=list(range(2, lanes + 1)), ahead=1)
    rig.desk.write(lambda tx: requests.ask(tx, vm, asked))


async def test_what_slots_take_ahead_is_asked_for_only_while_the_sources_own_jobs_are_short(rig: Rig) -> None:
    for _ in range(20):
        rig.grid.submit(GridWork(executable="/bin/true"))
    async with rig.adapter():
        first = await rig.start()
        ask_ahead(rig, "vm-1", 3)
        await until(lambda: rig.grid.calls["beat"] > 5)
        before = len(rig.assigned("vm-1"))
        rig.desk.pass_s(0.1)
        rig.leave(first)
        await until(lambda: len(rig.assigned("vm-1")) == 4)
        second = rig.assigned("vm-1")[1]
        rig.desk.beat(second)
        rig.desk.pass_s(3600)
        rig.leave(second)
        await until(lambda: len(rig.grid.ended()) == 2)
        ask_ahead(rig, "vm-1", 3)
        beats = rig.grid.calls["beat"]
        await until(lambda: rig.grid.calls["beat"] > beats + 5)

    assert before == 1
    assert len(rig.assigned("vm-1")) == 4
    assert sum(job.state == "waiting" for job in rig.grid.jobs.values()) == 16


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
    await writer.close()

    assert (asked, sum(pauses) / len(pauses) > 60) == (40, True)
    assert pauses[0] <= 2.0
    assert after == acquiring.LOOK_S
    assert rig.seen().given_ms > 0


@asynccontextmanager
async def parts_of(rig: Rig, source: Any) -> AsyncIterator[tuple[acquiring.Acquiring, lost_takings.LostTakings]]:
    """Give what asks a source for jobs, and what sees to lost ones, to be led step by step."""
    wire = MemoryCarrier("adapter-source-lyon")
    rig.registries["lyon"] = CollectorRegistry()
    writer = LedgerWriter(wire, rig.desk.ledger, Metrics(wire.user, rig.registries["lyon"]))
    hands = [lane.Lane(name, lane.Troubles()) for name in ("acquire", "give-back")]
    try:
        yield (
            acquiring.Acquiring("lyon", source, writer, hands[0], 100, 150.0),
            lost_takings.LostTakings("lyon", source, writer, hands[1]),
        )
    finally:
        await writer.close()
        for hand in hands:
            hand.close()


def lost_of(rig: Rig) -> float:
    """Say how many jobs were counted as lost."""
    value = rig.registries["lyon"].get_sample_value(
        "vc_source_jobs_total", {"adapter": "adapter-source-lyon", "fate": "lost"}
    )
    return value or 0.0


async def test_what_was_taken_and_never_written_down_is_given_back_and_nothing_else(rig: Rig) -> None:
    lost, known, brought, other = [rig.grid.submit(GridWork(executable="/bin/true")) for _ in range(4)]
    source = MemorySource(rig.grid)
    killed = rig.desk.write(lambda tx: takings.begin(tx, "lyon"))
    source.acquire([Offer(SMALL, 9)], 3, killed)
    source.acquire([Offer(SMALL, 9)], 1, "of another centre")
    for name, flaw in ((known, "a flaw"), (brought, "")):
        rows = [Acquisition(key=AcquisitionKey("lyon", name, 1), data=b"", flaw=flaw)]
        rig.desk.write(lambda tx, rows=rows: acquisitions.put(tx, rows))

    states = []
    async with parts_of(rig, source) as (_, seeing):
        for _ in range(2):
            await seeing.turn()
            states.append([rig.grid.jobs[name].state for name in (lost, known, brought, other)])
            rig.desk.pass_s(takings.LAPSED_MS / 1000)

    assert states == [["taken"] * 4, ["waiting", "taken", "taken", "taken"]]
    assert lost_of(rig) == 1


@pytest.mark.parametrize("is_elsewhere", [False, True])
@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_what_comes_too_late_to_be_written_down_is_given_back_unless_somebody_else_has_it(
    rig: Rig, is_forgotten: bool, is_elsewhere: bool
) -> None:
    name = rig.grid.submit(GridWork(executable="/bin/true"))
    rig.desk.ask("vm-1")
    held = Held("acquire", "before" if is_forgotten else "after")
    async with (
        parts_of(rig, Failing(MemorySource(rig.grid), held)) as (slow, _),
        parts_of(rig, MemorySource(rig.grid)) as (_, another),
    ):
        turn = asyncio.create_task(slow.turn())
        await until(lambda: held.is_there)
        for passed_ms in (takings.LAPSED_MS, takings.LATE_MS)[: 1 + is_forgotten]:
            rig.desk.pass_s(passed_ms / 1000)
            await another.turn()
        given_back = rig.grid.jobs[name].state
        if is_elsewhere:
            rig.grid.jobs[name].state, rig.grid.jobs[name].taking = "taken", "of another centre"
        held.over.set()
        await turn
        await another.turn()

    assert given_back == "waiting"
    assert rig.count(tables.acquisitions) == 0
    assert rig.grid.jobs[name].state == ("taken" if is_elsewhere else "waiting")


async def test_a_grid_that_does_not_name_what_was_lost_is_in_trouble_for_as_long(rig: Rig) -> None:
    lost = rig.grid.submit(GridWork(executable="/bin/true"))
    killed = rig.desk.write(lambda tx: takings.begin(tx, "lyon"))
    MemorySource(rig.grid).acquire([Offer(SMALL, 9)], 1, killed)
    rig.desk.pass_s(takings.LAPSED_MS / 1000)
    away = Faults("taken", "before", times=4, error=lambda: OSError(5, "Input/output error"))
    said = list[tuple[int, str]]()
    async with rig.adapter(Failing(MemorySource(rig.grid), away)) as adapter:

        def is_given_back() -> bool:
            said.append((away.left, str(adapter._troubles)))
            return rig.grid.jobs[lost].state == "waiting"

        await until(is_given_back)
        await until(lambda: not str(adapter._troubles))

    while_away = [words for left, words in said if left in (1, 2)]
    assert while_away
    assert all("Input/output error" in words for words in while_away)
    assert lost_of(rig) == 1


async def test_what_was_lost_is_given_back_while_the_grid_fails_whenever_it_is_asked_for_jobs(rig: Rig) -> None:
    rig.grid.submit(GridWork(executable="/bin/true"))
    rig.desk.ask("vm-1")
    faults = Faults("acquire", "after", times=1_000_000)
    async with rig.adapter(Failing(MemorySource(rig.grid), faults)):
        await until(lambda: rig.grid.jobs["1"].state == "taken")
        rig.desk.ask("vm-2")
        await rig.until(lambda: lost_of(rig))
    assert faults.left


async def test_takings_leave_nothing_behind(rig: Rig) -> None:
    rig.grid.submit(GridWork(executable="/bin/true"))
    faults = Faults("acquire", "after", times=3)
    async with rig.adapter(Failing(MemorySource(rig.grid), faults)):
        rig.desk.ask("vm-1")
        await until(lambda: not faults.left)
        most = rig.count(tables.takings)
        await rig.until(lambda: rig.assigned("vm-1"))
        await rig.until(lambda: not rig.count(tables.takings))

    assert most > 0


class Generous(MemorySource):
    """Gives one more than it is asked for."""

    def acquire(self, offers: Sequence[Offer], most: int, taking: str = "") -> Sequence[Acquired]:
        return super().acquire(offers, most + 1, taking)


async def test_what_is_more_than_was_asked_for_waits_again_at_the_grid(rig: Rig) -> None:
    names = [rig.grid.submit(GridWork(executable="/bin/true")) for _ in range(2)]
    rig.desk.ask("vm-1")
    async with parts_of(rig, Generous(rig.grid)) as (asking, seeing):
        await asking.turn()
        await seeing.turn()

    assert [rig.grid.jobs[name].state for name in names] == ["taken", "waiting"]
    assert rig.count(tables.acquisitions) == 1


class OfBefore:
    """A source that was written before takings had names."""

    def __init__(self, source: MemorySource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        if name in ("names_takings", "taken"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def acquire(self, offers: Sequence[Offer], most: int) -> Sequence[Acquired]:
        return self._source.acquire(offers, most)


async def test_a_source_of_an_earlier_release_is_asked_as_before(rig: Rig) -> None:
    rig.grid.submit(GridWork(executable="/bin/true"))
    async with rig.adapter(OfBefore(MemorySource(rig.grid))):
        job = await rig.start()
        rig.leave(job)
        await until(rig.grid.ended)

    assert rig.count(tables.takings) == 0


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


async def test_what_is_on_its_way_here_is_told_its_grid_as_alive_and_is_stopped_when_it_wants_that(rig: Rig) -> None:
    work = GridWork(executable="run.sh", inputs=[GridInput(name="run.sh", where="there")])
    rig.desk.ask("vm-1")
    name = rig.grid.submit(work, {"there": b"x"})
    held = Stuck("stage_in", "before")
    async with rig.adapter(Failing(MemorySource(rig.grid), held)):
        await until(lambda: held.is_there and rig.grid.jobs[name].progress)
        progress = rig.grid.jobs[name].progress
        rig.grid.kill(name)
        await until(rig.grid.ended)
        held.over.set()
        await rig.until(lambda: not rig.count(tables.acquisitions))

    assert progress.state is JobState.SUBMITTED
    assert [(one.state, one.cause) for one in rig.grid.jobs[name].finals] == [(JobState.HELD, "killed by its user")]
    assert not rig.assigned("vm-1")


async def ended_with_no_word(adapter: SourceAdapter) -> None:
    """Be killed: what was taken stays taken."""


class Deadly(MemorySource):
    """Lets nobody live who fetches the input of one job; the others' take their time."""

    def __init__(self, grid: MemoryGrid, job: str) -> None:
        super().__init__(grid)
        self.job, self.is_there, self.over = job, threading.Event(), threading.Event()

    def stage_in(self, job: GridJob, wanted: GridInput, target: Path) -> None:
        if job.id == self.job:
            self.is_there.set()
            self.over.wait(60)
        self.is_there.wait(0.3)
        super().stage_in(job, wanted, target)


async def test_a_job_that_ends_whatever_adapter_begins_it_is_given_up_and_others_are_done_before(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SourceAdapter, "_give_back", ended_with_no_word)
    work = GridWork(executable="run.sh", inputs=[GridInput(name="run.sh", where="there")])
    deadly, good = (rig.grid.submit(work, {"there": b"x"}) for _ in range(2))
    for vm in ("vm-1", "vm-2"):
        rig.desk.ask(vm)
    adapters, without = [Deadly(rig.grid, deadly)], 0
    while not rig.grid.jobs[deadly].finals:
        async with rig.adapter(adapters[-1]):
            await until(
                lambda: adapters[-1].is_there.is_set() or (rig.grid.ended() and not rig.count(tables.acquisitions))
            )
        adapters[-1].over.set()
        without += not rig.count(tables.jobs)
        adapters.append(Deadly(rig.grid, deadly))

    (told,) = rig.grid.jobs[deadly].finals
    assert sum(one.is_there.is_set() for one in adapters) == MOST_LOST
    assert (told.state, told.cause) == (JobState.HELD, "20 times this centre's adapter ended while it saw to the job")
    assert rig.desk.job(f"{good}-1.1", OWNER).state is JobState.ASSIGNED
    assert without <= SUSPECT + 1
    assert rig.count(tables.acquisitions) == 0


async def test_what_is_under_way_when_an_adapter_is_stopped_in_order_however_often_is_done_in_the_end(rig: Rig) -> None:
    work = GridWork(executable="run.sh", inputs=[GridInput(name="run.sh", where="there")])
    names = [rig.grid.submit(work, {"there": b"x"}) for _ in range(6)]
    for number in range(6):
        rig.desk.ask(f"vm-{number}")
    for _ in range(MOST_LOST + 1):
        held = Stuck("stage_in", "before")
        async with rig.adapter(Failing(MemorySource(rig.grid), held)):
            await until(lambda held=held: held.is_there or rig.count(tables.jobs) == len(names))  # type: ignore[misc]
        held.over.set()
    async with rig.adapter():
        await until(lambda: rig.count(tables.jobs) == len(names))

    assert rig.grid.ended() == []


@pytest.mark.parametrize("step", ["stage_in", "stage_out"])
async def test_a_fault_of_ours_or_no_thread_to_work_in_loses_no_job_and_is_told(rig: Rig, step: str) -> None:
    work = GridWork(executable="run.sh", inputs=[GridInput(name="run.sh", where="there")])
    name = rig.grid.submit(work, {"there": b"x"})
    wrong = Faults(step, "before", times=3, error=lambda: ValueError("a fault of ours"))
    lane_name, real, refusals = {"stage_in": "stage-in", "stage_out": "deliver"}[step], threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if thread.name == f"source {lane_name}" and len(refusals) < 3:
            refusals.append(thread.name)
            raise RuntimeError("can't start new thread")
        real(thread)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        async with rig.adapter(Failing(MemorySource(rig.grid), wrong)) as adapter:
            rig.desk.ask("vm-1")
            said: list[str] = []

            def shows(what: object) -> object:
                said.append(str(adapter._troubles))
                return what

            await rig.until(lambda: shows(rig.assigned("vm-1")))
            rig.leave(rig.assigned("vm-1")[0])
            await rig.until(lambda: shows(rig.grid.jobs[name].finals))

    assert (wrong.left, len(refusals)) == (0, 3)
    for words in ("no thread to ask it in: can't start new thread", "ValueError: a fault of ours"):
        assert any(words in one for one in said)
    assert [one.state for one in rig.grid.jobs[name].finals] == [JobState.DONE]


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
        await rig.until(lambda: rig.assigned("vm-1"))
        await until(lambda: method != "beat" or not faults.left)
        rig.leave(rig.assigned("vm-1")[0])
        await rig.until(rig.grid.ended)

    assert faults.left == 0
    assert final_states(rig.grid) == {JobState.DONE: 1}
    assert rig.grid.jobs["1"].outputs == {"stdout": b"hi\n"}
    assert len(rig.assigned("vm-1")) == 1


class Stuck:
    """Holds the first call of a method up, before it is carried out or after, until the test is over."""

    def __init__(self, method: str, when: str) -> None:
        self.method, self.when, self.is_there, self.over = method, when, False, threading.Event()

    def __call__(self, method: str, when: str) -> Exception | None:
        if (method, when) == (self.method, self.when) and not self.is_there:
            self.is_there = True
            self.over.wait(60)
            return self._after()
        return None

    def _after(self) -> Exception | None:
        return SourceUnavailable("the adapter is gone")


class Held(Stuck):
    """As that, and the call goes on then."""

    def _after(self) -> Exception | None:
        return None


#: Where each step of a delivery can be held up: the part that does it, and its method.
STEPS = {
    "stage-out": ("source", "stage_out"),
    "upload": ("store", "put"),
    "verify": ("store", "stat"),
    "register": ("catalogue", "register"),
    "report": ("source", "finish"),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_whoever_is_killed_before_or_after_a_step_the_next_one_delivers_each_thing_once(
    rig: Rig, step: str, when: str
) -> None:
    part, method = STEPS[step]
    stuck = Stuck(method, when)
    parts: dict[str, Any] = {
        "source": MemorySource(rig.grid),
        "store": MemoryGridStore(),
        "catalogue": MemoryCatalogue(),
    }
    faulty = parts | {part: Failing(parts[part], stuck)}
    name = rig.grid.submit(GridWork(executable="/bin/true"))

    async with rig.adapter(faulty["source"], grid_store=faulty["store"], catalogue=faulty["catalogue"]):
        job = await rig.start()
        rig.leave(job)
        await until(lambda: stuck.is_there)
    async with rig.adapter(parts["source"], grid_store=parts["store"], catalogue=parts["catalogue"]):
        await until(lambda: rig.grid.ended() and not rig.count(tables.deliveries))
    stuck.over.set()

    (told,) = rig.grid.jobs[name].finals
    ((output,), (known,)) = told.outputs, parts["catalogue"].known.values()
    assert (told.state, output.name, output.adler32) == (
        JobState.DONE,
        "stdout",
        f"{zlib.adler32(b'hi' + bytes([10])):08x}",
    )
    assert (known.url, known.size, known.adler32) == (output.url, 3, output.adler32)
    assert rig.grid.jobs[name].outputs == {"stdout": b"hi\n"}
    assert len(rig.assigned("vm-1")) == 1


async def test_a_grid_that_is_down_for_an_hour_loses_nothing_says_so_and_holds_up_no_other(rig: Rig) -> None:
    down: list[SourceUnavailable] = []
    other = MemoryGrid()
    rig.grid.submit(GridWork(executable="/bin/true"))
    async with rig.adapter(Failing(MemorySource(rig.grid), lambda method, when: down[0] if down else None)):
        job = await rig.start()
        down.append(SourceUnavailable("nobody answers"))
        rig.leave(job)
        async with rig.adapter(MemorySource(other), name="oslo"):
            began_ms = rig.desk.now_ms
            for number in range(3):
                other.submit(GridWork(executable="/bin/true"))
                rig.leave(await rig.start(f"vm-{2 + number}"))
                await until(lambda number=number: len(other.ended()) == number + 1)
            await rig.until(lambda: rig.desk.now_ms - began_ms > 3_600_000)
        await until(lambda: "nobody answers" in rig.seen().trouble, 30)
        why, told = rig.desk.show("1-1", OWNER).cause, rig.seen()
        before = final_states(rig.grid)
        down.clear()
        await rig.until(rig.grid.ended)

    assert "done here; telling lyon failed" in why
    assert "nobody answers; again in" in why
    assert ("nobody answers" in told.trouble, told.owed, told.held) == (True, 1, 0)
    assert told.trouble_ms > 0
    assert (before, final_states(rig.grid)) == ({}, {JobState.DONE: 1})


async def test_a_job_of_which_what_was_kept_is_damaged_is_told_to_nobody_and_is_no_other_jobs_trouble(rig: Rig) -> None:
    for _ in range(2):
        rig.grid.submit(GridWork(executable="/bin/true"))
    damage = update(tables.submissions).where(tables.submissions.c.id == "1-1").values(source_data=b"\xc1")
    async with rig.adapter():
        jobs = [await rig.start(vm) for vm in ("vm-1", "vm-2")]
        rig.desk.write(lambda tx: tx.execute(damage).rowcount)
        for job in jobs:
            rig.leave(job)
        await until(lambda: rig.grid.jobs["2"].finals and rig.seen().held)

    assert not rig.grid.jobs["1"].finals
    assert "what was kept of its grid's job cannot be read" in rig.desk.show("1-1", OWNER).cause


async def test_a_word_that_did_not_come_to_the_ledger_keeps_nothing_waiting(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.grid.submit(GridWork(executable="/bin/true"))
    lost: list[int] = []
    done = deliveries.done

    def lose(tx: Tx, keys: Any) -> None:
        done(tx, keys)
        if keys and not lost:
            lost.append(1)
            raise LedgerUnavailable("the database is down")

    monkeypatch.setattr(deliveries, "done", lose)
    async with rig.adapter():
        rig.leave(await rig.start())
        await until(lambda: lost and not rig.count(tables.deliveries))

    assert final_states(rig.grid) == {JobState.DONE: 1}


class SmallSandboxes:
    """A source whose grid takes small sandboxes, and notes what was to go into each."""

    def __init__(self, source: MemorySource, most: int) -> None:
        self._source, self._most, self.packed = source, most, list[list[str]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def stage_out(self, ending: GridEnding, local: Callable[[str], Path]) -> str:
        size = sum(one.size for one in ending.outputs)
        if size > self._most:
            raise SandboxTooLarge(f"outputs of {size} bytes: a sandbox may have {self._most}")
        self.packed.append([one.name for one in ending.outputs])
        return self._source.stage_out(ending, local)


async def test_a_job_that_leaves_more_than_its_grid_takes_has_failed_there_with_the_reason(rig: Rig) -> None:
    rig.grid.submit(GridWork(executable="/bin/true", outputs=["big"]))
    source: Any = SmallSandboxes(MemorySource(rig.grid), 10)
    catalogue = MemoryCatalogue()
    async with rig.adapter(source, catalogue=catalogue):
        job = await rig.start()
        rig.leave_all(job, {"stdout": b"hi\n", "big": b"x" * 100})
        await until(lambda: rig.grid.ended() and not rig.count(tables.deliveries))

    (told,) = rig.grid.jobs["1"].finals
    assert (told.state, told.cause) == (JobState.HELD, "outputs of 103 bytes: a sandbox may have 10")
    assert rig.grid.jobs["1"].outputs == {"stdout": b"hi\n"}
    assert rig.desk.show("1-1", OWNER).job.state is JobState.DONE


async def test_what_goes_into_a_grids_store_need_not_fit_its_sandbox(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "MOST_SANDBOX_BYTES", 10)
    rig.grid.submit(GridWork(executable="/bin/true", outputs=["*"]))
    source: Any = SmallSandboxes(MemorySource(rig.grid), 10)
    store = MemoryGridStore()
    async with rig.adapter(source, grid_store=store):
        job = await rig.start()
        rig.leave_all(job, {"stdout": b"hi\n", "big": b"x" * 100, "small": b"y"})
        await until(lambda: rig.grid.ended() and not rig.count(tables.deliveries))

    (told,) = rig.grid.jobs["1"].finals
    assert told.state is JobState.DONE
    assert [one.name for one in told.outputs if one.url] == ["stdout", "big", "small"]
    assert source.packed == [["stdout", "small"]]


async def test_a_grid_that_refuses_to_hear_of_a_flaw_hears_of_it_again(rig: Rig) -> None:
    rig.desk.ask("vm-1")
    rig.grid.submit(GridWork(executable="run.sh", inputs=[GridInput(name="run.sh", where="nowhere")]))
    faults = Faults("finish", "before", times=3, error=lambda: SourceRefused("404: the front end is new"))
    async with rig.adapter(Failing(MemorySource(rig.grid), faults)):
        await rig.until(rig.grid.ended)

    assert final_states(rig.grid) == {JobState.HELD: 1}


async def test_a_grid_that_refuses_us_for_a_while_is_told_later_and_nobody_has_to_look(rig: Rig) -> None:
    rig.grid.submit(GridWork(executable="/bin/true"))
    faults = Faults("finish", "before", times=3, error=lambda: SourceRefused("413: too much in one question"))
    async with rig.adapter(Failing(MemorySource(rig.grid), faults)):
        rig.leave(await rig.start())
        await rig.until(rig.grid.ended)

    assert (faults.left, rig.seen().held) == (0, 0)


async def test_a_final_status_that_was_undone_at_its_grid_is_set_again_once_it_is_looked_at(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemorySource, "affirm_after_s", 60.0)
    names = [rig.grid.submit(GridWork(executable="/bin/true")) for _ in range(2)]
    async with rig.adapter():
        for _ in names:
            rig.leave(await rig.start())
        await until(lambda: len(rig.grid.ended()) == 2)
        await until(lambda: not rig.seen().owed)
        told = rig.seen()
        rig.grid.jobs[names[0]].state = "taken"
        early = rig.grid.calls["affirm"]
        await rig.until(lambda: not rig.count(tables.deliveries))

    assert (told.owed, told.held, early) == (0, 0, 0)
    assert [rig.grid.jobs[name].state for name in names] == ["done", "done"]
    assert rig.grid.calls["affirm"] in (1, 2)
    assert rig.grid.calls["finish"] <= 2


async def test_while_a_grid_hears_nothing_no_more_is_taken_of_what_it_is_to_be_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MOST_KEPT", 3)
    deaf = Stuck("finish", "before")
    is_taken = select(func.count()).select_from(tables.deliveries).where(tables.deliveries.c.taken_by != "")

    def taken() -> int:
        return int(rig.desk.ledger.read(lambda tx: tx.execute(is_taken).scalar_one()))

    for _ in range(6):
        rig.grid.submit(GridWork(executable="/bin/true"))
    async with rig.adapter(Failing(MemorySource(rig.grid), deaf)):
        for nth in range(1, 7):
            rig.leave(await rig.start())
            await until(lambda nth=nth: taken() == min(nth, 3))  # type: ignore[misc]
        beats = rig.grid.calls["beat"]
        await until(lambda: rig.grid.calls["beat"] > beats + 5)
        most = taken()
        deaf.over.set()
        await rig.until(lambda: len(rig.grid.ended()) == 6)

    assert most == 3


async def test_what_a_grids_store_has_otherwise_than_it_was_sent_is_sent_again(rig: Rig) -> None:
    store = MemoryGridStore()
    rig.grid.submit(GridWork(executable="/bin/true"))
    spoiled: list[str] = []

    def spoil(method: str, when: str) -> None:
        if (method, when) == ("put", "after") and not spoiled:
            spoiled.extend(store.files)
            store.files[spoiled[0]] = b"ho\n"

    async with rig.adapter(grid_store=Failing(store, spoil)):
        rig.leave(await rig.start())
        await rig.until(rig.grid.ended)

    assert len(spoiled) == 1
    assert list(store.files.values()) == [b"hi\n"]


async def test_what_a_store_refuses_for_good_is_held_and_beaten_for_and_goes_on_once_it_is_released(
    rig: Rig,
) -> None:
    rig.grid.submit(GridWork(executable="/bin/true"))
    faults = Faults("put", "before", error=lambda: GridStoreRefused("root://se: read-only"))
    async with rig.adapter(grid_store=Failing(MemoryGridStore(), faults)):
        rig.leave(await rig.start())
        await until(lambda: rig.seen().held if rig.count(tables.sources) else 0)
        why = rig.desk.show("1-1", OWNER)
        rig.grid.kill("1")
        rig.grid.jobs["1"].progress = None
        await until(lambda: (at := rig.grid.jobs["1"].progress) and at.state is JobState.STAGE_OUT)
        rig.desk.write(lambda tx: sources.retry(tx, SourceRetry(source="lyon")))
        await until(rig.grid.ended)

    assert final_states(rig.grid) == {JobState.DONE: 1}
    assert why.cause == "done here; telling lyon was given up: upload: root://se: read-only"
    assert "volcloud source retry" in why.next_step


class SlowCatalogue(MemoryCatalogue):
    """Its first call takes until so many jobs have come to it; if it is to, each fails that has several files."""

    def __init__(self, rig: Rig, jobs: int, *, fails: bool = False) -> None:
        super().__init__()
        self.rig, self.jobs, self.fails = rig, jobs, fails
        #: The names of each call.
        self.asked: list[list[str]] = []

    def register(self, copies: Sequence[Replica]) -> Mapping[str, str]:
        self.asked.append([copy.name for copy in copies])
        if len(self.asked) == 1:
            for _ in range(500):
                if sum(job.registered for job in self.rig.grid.jobs.values()) == self.jobs:
                    break
                threading.Event().wait(0.02)
            threading.Event().wait(0.2)
        if len(copies) > 1 and self.fails:
            raise CatalogueUnavailable("https://rucio: 500; we try again")
        return super().register(copies)


async def ended_together(rig: Rig, jobs: int) -> list[JobAssign]:
    """Have so many jobs run, and end."""
    for _ in range(jobs):
        rig.grid.submit(GridWork(executable="/bin/true"))
    assigned = [await rig.start(f"vm-{number}") for number in range(jobs)]
    for one in assigned:
        rig.leave(one)
    return assigned


async def test_what_several_jobs_have_left_is_registered_together_and_what_is_refused_holds_up_no_other(
    rig: Rig,
) -> None:
    catalogue = SlowCatalogue(rig, 8)
    catalogue.disliked = {copy_name(f"{OWNER}/6-1.1", 1, "stdout"): "it does not like that name"}
    async with rig.adapter(grid_store=MemoryGridStore(), catalogue=catalogue):
        await ended_together(rig, 8)
        await until(lambda: len(rig.grid.ended()) == 7 and rig.seen().held, 30)

    assert max(map(len, catalogue.asked)) > 1
    assert sum(map(len, catalogue.asked)) == 8
    assert final_states(rig.grid) == {JobState.DONE: 7}
    assert rig.grid.jobs["6"].finals == []
    assert "it does not like that name" in rig.desk.show("6-1", OWNER).cause


async def test_what_could_not_be_registered_together_is_registered_one_by_one(rig: Rig) -> None:
    catalogue = SlowCatalogue(rig, 5, fails=True)
    async with rig.adapter(grid_store=MemoryGridStore(), catalogue=catalogue):
        await ended_together(rig, 5)
        await rig.until(lambda: len(rig.grid.ended()) == 5)

    assert max(map(len, catalogue.asked)) > 1
    assert set(catalogue.calls) == {1}
    assert len(catalogue.known) == 5
    assert final_states(rig.grid) == {JobState.DONE: 5}
