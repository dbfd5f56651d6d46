"""The source of DIRAC's jobs on a real DiracX: what users see of their jobs, and what it does when it is in trouble."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sqlite3
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from adapters.errors import SourceDenied, SourceError, SourceRefused, SourceUnavailable
from adapters.sources.contract import Acquired, GridEnding, GridJob, GridOutput, GridProgress, GridSource, Offer
from adapters.sources.dirac import grid_clock, make_dirac, matchers
from adapters.sources.dirac.beats import BEAT_S
from adapters.sources.dirac.jobs import kept_of
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.dirac.states import STEPS
from schemas.jobs import Machine
from schemas.ledger import JobState
from tests.sources.diracx_peer import PYTHON, DiracxPeer, demand_diracx, diracx_fixture
from tests.sources.front import Front

__all__ = ["diracx_fixture"]

SITE = "CLOUD.Volunteer.org"
OFFER = Offer(Machine(cpus=4, memory_mib=8000, disk_mib=10_000, platform="linux-x86_64", slots=4), 4)
MANY = [OFFER._replace(slots=100)]
ECHO = 'Executable = "/bin/echo"; Arguments = "hello %j"; StdOutput = "std.out"; OutputSandbox = {"std.out", "a.txt"};'

Make = Callable[..., GridSource]


@pytest.fixture(scope="module")
def grid(diracx: DiracxPeer) -> DiracxPeer:
    return diracx


@pytest.fixture
def front(grid: DiracxPeer) -> Iterator[Front]:
    one = Front(grid.url)
    yield one
    one.close()


@pytest.fixture
def make(grid: DiracxPeer, front: Front, tmp_path: Path) -> Iterator[Make]:
    made: list[GridSource] = []

    def one(name: str = "dirac", **changes: object) -> GridSource:
        settings = DiracSettings(
            url=front.url,
            site=SITE,
            operator_credential=str(grid.credential(tmp_path / "operator.json", "operator", "operators")),
            pilot_credential=str(grid.credential(tmp_path / "pilot.json", "pilot", "pilots")),
            timeout_s=20,
        )
        made.append(make_dirac(msgspec.structs.replace(settings, **changes), name))
        return made[-1]

    yield one
    for source in made:
        source.close()


@pytest.fixture
def source(make: Make) -> GridSource:
    return make()


@pytest.fixture(autouse=True)
def nothing_waits(grid: DiracxPeer) -> Iterator[None]:
    """Leave no job behind that another test would be given."""
    yield
    where = [{"parameter": "Status", "operator": "in", "values": ["Waiting", "Matched", "Running"]}]
    rows = grid.ask("operator", "operators", "POST", "/api/jobs/search", json={"search": where}).json()
    if rows:
        grid.step([row["JobID"] for row in rows], "Killed", user="operator", group="operators")


def ended(job: GridJob, state: JobState = JobState.DONE, **more: object) -> GridEnding:
    return msgspec.structs.replace(GridEnding(job=job, state=state, exit_status=0), **more)


def by_id(found: Sequence[Acquired]) -> dict[int, Acquired]:
    return {int(one.job.id): one for one in found}


def test_a_job_goes_its_way_from_waiting_to_done(grid: DiracxPeer, source: GridSource, tmp_path: Path) -> None:
    [job] = grid.submit(ECHO + "CPUTime = 500; Priority = 4;")

    [taken] = source.acquire([OFFER], 5)
    assert (taken.job.id, taken.job.attempt, taken.flaw) == (str(job), 1, "")
    assert (taken.work.executable, taken.work.arguments) == ("/bin/echo", ["hello", str(job)])
    assert (taken.work.outputs, taken.work.wall_time_s, taken.work.priority) == (["a.txt"], 500.0, 4)
    assert (grid.status(job), grid.rows(job)[job]["Site"]) == ("Matched", SITE)

    assert source.beat([GridProgress(job=taken.job, state=JobState.SUBMITTED)]) == []
    assert grid.rows(job)[job]["MinorStatus"] == "Waiting for a volunteer's machine"
    assert grid.status(job) == "Matched"
    assert source.beat([GridProgress(job=taken.job, state=JobState.RUNNING)]) == []
    assert (grid.status(job), grid.rows(job)[job]["MinorStatus"]) == ("Running", "Application")
    assert grid.rows(job)[job]["HeartBeatTime"]

    (tmp_path / "stdout").write_bytes(b"hello\n")
    (tmp_path / "a.txt").write_bytes(b"a" * 1000)
    outputs = [GridOutput(name=name, size=1, sha256="") for name in ("stdout", "a.txt")]
    ending = ended(taken.job, outputs=outputs)
    sandbox = source.stage_out(ending, lambda name: tmp_path / name)
    assert source.stage_out(ending, lambda name: tmp_path / name) == sandbox
    assert grid.output_of(job) == {"std.out": b"hello\n", "a.txt": b"a" * 1000}

    source.register(ending)
    assert source.finish([msgspec.structs.replace(ending, sandbox=sandbox)]) == {}
    row = grid.rows(job)[job]
    assert (row["Status"], row["MinorStatus"]) == ("Done", "Execution Complete")
    assert row["ApplicationStatus"] == "Application Finished Successfully"


def test_a_final_status_stays(grid: DiracxPeer, source: GridSource) -> None:
    grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)
    assert source.finish([ended(taken.job)]) == {}

    assert source.finish([ended(taken.job)]) == {}
    assert source.finish([ended(taken.job, JobState.HELD, cause="no")]) == {}

    row = grid.rows(int(taken.job.id))[int(taken.job.id)]
    assert (row["Status"], row["MinorStatus"]) == ("Done", "Execution Complete")


def test_a_final_status_that_a_late_word_has_undone_is_set_again_and_what_is_others_stays(
    grid: DiracxPeer, front: Front, source: GridSource, caplog: pytest.LogCaptureFixture
) -> None:
    names = grid.submit(ECHO, ECHO, ECHO, ECHO)
    taken = by_id(source.acquire(MANY, 4))
    stands, undone, elsewhere, gone = names
    endings = [ended(taken[name].job) for name in names]
    assert source.finish(endings) == {}
    # The server's own steps, between its reading of a status and its writing of the next one, let this come about.
    with sqlite3.connect(grid.directory / "JobDB.db", timeout=60) as jobs:
        jobs.execute("UPDATE Jobs SET Status = 'Running', MinorStatus = 'Application' WHERE JobID = ?", (undone,))
        jobs.execute("UPDATE Jobs SET Status = 'Running', Site = 'LCG.Other.org' WHERE JobID = ?", (elsewhere,))
        jobs.execute("DELETE FROM Jobs WHERE JobID = ?", (gone,))
    before = front.asked.copy()

    assert source.affirm(endings) == {}

    status = {name: grid.status(name) for name in (stands, undone, elsewhere)}
    assert status == {stands: "Done", undone: "Done", elsewhere: "Running"}
    assert grid.rows(undone)[undone]["MinorStatus"] == "Execution Complete"
    assert "were undone" in caplog.text
    asked = front.asked - before
    before = front.asked.copy()
    assert source.affirm(endings[:1]) == {}
    assert asked["PATCH /api/jobs/status"] == 1
    assert front.asked - before == {"POST /api/jobs/search": 1}, "what stands costs one look for all"


def test_a_job_that_failed_says_why(grid: DiracxPeer, source: GridSource) -> None:
    grid.submit(ECHO, ECHO, ECHO)
    first, second, third = (one.job for one in source.acquire([OFFER], 3))
    source.beat([GridProgress(job=first, state=JobState.RUNNING)])

    reasons = source.finish(
        [
            ended(first, JobState.HELD, exit_status=3, cause="out of memory"),
            ended(second, JobState.CANCELLED, cause="by the operator"),
            ended(third, JobState.HELD, exit_status=-1, cause="no such program"),
        ]
    )

    assert reasons == {}
    rows = grid.rows(*(int(job.id) for job in (first, second, third)))
    said = [tuple(rows[int(job.id)][key] for key in ("Status", "ApplicationStatus")) for job in (first, second, third)]
    assert said == [
        ("Failed", "exit status 3: out of memory"),
        ("Killed", "by the operator"),
        ("Failed", "no such program"),
    ]


def test_a_job_for_us_alone_that_cannot_be_done_is_given_with_its_flaw(grid: DiracxPeer, source: GridSource) -> None:
    flawed = 'Executable = "x.sh"; InputSandbox = {"LFN:/vo/big.root"};'
    [job], [for_others] = grid.submit(f'{flawed} Site = "{SITE}";'), grid.submit(flawed)

    [taken] = source.acquire([OFFER], 5)

    assert (int(taken.job.id), taken.work, grid.status(for_others)) == (job, None, "Waiting")
    assert "InputSandbox" in taken.flaw
    assert "catalogue" in taken.flaw
    assert source.finish([ended(taken.job, JobState.HELD, exit_status=-1, cause=taken.flaw)]) == {}
    assert grid.status(job) == "Failed"


def test_slots_are_given_what_they_can_do_and_no_more(grid: DiracxPeer, source: GridSource) -> None:
    others = grid.submit(
        ECHO + "NumberOfProcessors = 8;",
        ECHO + "MaxRAM = 16GB;",
        ECHO + 'Tag = {"GPU"};',
        ECHO + 'Site = "LCG.CERN.ch";',
        ECHO + 'BannedSites = {"CLOUD.Volunteer.org"};',
    )
    plain = grid.submit(*[ECHO] * 6)

    first, second = source.acquire([OFFER], 3), source.acquire([OFFER], 10)

    assert [int(one.job.id) for one in first] == plain[:3]
    assert [int(one.job.id) for one in second] == plain[3:]
    assert {row["Status"] for row in grid.rows(*others).values()} == {"Waiting"}
    assert source.acquire([], 5) == []


def test_a_description_is_read_once_while_its_job_waits(grid: DiracxPeer, front: Front, source: GridSource) -> None:
    grid.submit(*[ECHO + "NumberOfProcessors = 200;"] * 3)

    for _ in range(5):
        assert source.acquire([OFFER], 5) == []

    assert front.asked["POST /api/jobs/reschedule"] == 1


def test_a_kill_by_its_user_is_heard_until_the_job_is_named_no_more(grid: DiracxPeer, source: GridSource) -> None:
    grid.submit(ECHO, ECHO)
    killed, other = (one.job for one in source.acquire([OFFER], 2))
    running = [GridProgress(job=job, state=JobState.RUNNING) for job in (killed, other)]
    assert source.beat(running) == []

    grid.kill_job(int(killed.id))

    for _ in range(3):
        [stop] = source.beat(running)
        assert (stop.id, stop.attempt) == (killed.id, 1)
        assert "Killed" in stop.why
    assert source.beat(running[1:]) == []
    assert source.finish([ended(killed, JobState.CANCELLED)]) == {}
    assert grid.status(int(killed.id)) == "Killed"


def test_a_clock_that_is_wrong_here_takes_no_order_from_a_user(
    grid: DiracxPeer, source: GridSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(grid_clock, "datetime", Ahead)
    grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)
    running = [GridProgress(job=taken.job, state=JobState.RUNNING)]
    assert source.beat(running) == []

    grid.kill_job(int(taken.job.id))

    assert grid.status(int(taken.job.id)) == "Killed"
    assert len(source.beat(running)) == 1


def test_a_kill_is_heard_in_the_beat_in_which_it_comes(grid: DiracxPeer, front: Front, source: GridSource) -> None:
    grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)
    kills = [int(taken.job.id)]

    def kill_after_the_look(method: str, path: str) -> None:
        if path == "/api/jobs/search" and kills:
            grid.kill_job(kills.pop())

    front.after = kill_after_the_look

    assert [stop.id for stop in source.beat([GridProgress(job=taken.job, state=JobState.RUNNING)])] == [taken.job.id]


def test_a_job_that_is_rescheduled_there_is_stopped_here_and_comes_again_as_another_attempt(
    grid: DiracxPeer, source: GridSource
) -> None:
    [job] = grid.submit(ECHO)
    [first] = source.acquire([OFFER], 1)
    assert source.beat([GridProgress(job=first.job, state=JobState.RUNNING)]) == []

    grid.reschedule(job)
    assert [stop.attempt for stop in source.beat([GridProgress(job=first.job, state=JobState.RUNNING)])] == [1]
    [second] = source.acquire([OFFER], 1)
    assert (second.job.id, second.job.attempt) == (first.job.id, 2)

    progress = [GridProgress(job=one.job, state=JobState.RUNNING) for one in (first, second)]
    assert [(stop.id, stop.attempt) for stop in source.beat(progress)] == [(first.job.id, 1)]
    assert [stop.attempt for stop in source.beat(progress[:1])] == [1]
    assert source.beat(progress[1:]) == []
    assert "rescheduled" in source.finish([ended(first.job)])[first.job.id]
    assert grid.status(job) == "Running"
    assert source.finish([ended(second.job)]) == {}


def test_a_job_that_is_not_there_any_more_is_stopped(grid: DiracxPeer, source: GridSource) -> None:
    unknown = GridJob(id="99999999")
    grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)

    stops = source.beat([GridProgress(job=job, state=JobState.RUNNING) for job in (unknown, taken.job)])

    assert [stop.id for stop in stops] == [unknown.id]
    assert source.finish([ended(unknown)]) == {unknown.id: "it is not known at the grid"}
    source.release([unknown], "nobody wants it")


def test_a_job_that_another_kind_of_source_has_left_is_no_other_jobs_trouble(
    grid: DiracxPeer, source: GridSource
) -> None:
    strange = GridJob(id="count-12af")
    [name] = grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)

    stops = source.beat([GridProgress(job=job, state=JobState.RUNNING) for job in (strange, taken.job)])
    told = source.finish([ended(strange), ended(taken.job)])

    assert [stop.id for stop in stops] == [strange.id]
    assert told == {strange.id: "its name is none of DIRAC's"}
    assert source.affirm([ended(strange)]) == {}
    assert grid.status(name) == "Done"


def test_a_job_that_the_operator_may_not_see_any_more_is_not_stopped_for_that(
    grid: DiracxPeer, front: Front, source: GridSource
) -> None:
    [job] = grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)
    before = grid.rows(job)[job]
    front.answerer = lambda method, path: (200, {}, b"[]") if path == "/api/jobs/search" else None

    assert source.beat([GridProgress(job=taken.job, state=JobState.RUNNING)]) == []

    after = grid.rows(job)[job]
    assert [after[key] for key in ("Status", "MinorStatus")] == [before[key] for key in ("Status", "MinorStatus")]


def test_two_sources_that_acquire_at_once_take_all_jobs_and_name_each_alike(grid: DiracxPeer, make: Make) -> None:
    jobs = grid.submit(*[ECHO] * 10)
    sources = [make("first"), make("second")]
    found: list[list[Acquired]] = [[], []]

    def acquire(n: int) -> None:
        found[n] = list(sources[n].acquire(MANY, 100))

    threads = [threading.Thread(target=acquire, args=(n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    named = {(one.job.id, one.job.attempt) for one in (*found[0], *found[1])}
    assert named == {(str(job), 1) for job in jobs}
    assert {row["Status"] for row in grid.rows(*jobs).values()} == {"Matched"}
    # Whoever has one may go on with it, whatever the other has looked at in the meantime.
    for n in range(2):
        progress = [GridProgress(job=one.job, state=JobState.RUNNING) for one in found[n]]
        assert sources[n].beat(progress) == []


@pytest.mark.parametrize("lost", ["PATCH /api/jobs/status", "POST /api/jobs/search", "PATCH /api/jobs/metadata"])
def test_what_was_taken_when_an_answer_was_lost_is_given_the_next_time(
    grid: DiracxPeer, front: Front, source: GridSource, lost: str
) -> None:
    jobs = grid.submit(*[ECHO] * 3)
    front.lost = {lost: 2 if lost == "POST /api/jobs/search" else 1}
    with pytest.raises(SourceUnavailable):
        source.acquire(MANY, 10)

    found = source.acquire(MANY, 10)

    assert by_id(found).keys() == set(jobs)
    assert {row["Site"] for row in grid.rows(*jobs).values()} == {SITE}
    assert source.beat([GridProgress(job=one.job, state=JobState.RUNNING) for one in found]) == []
    assert source.acquire(MANY, 10) == []


def test_of_what_was_taken_when_an_answer_was_lost_as_many_are_given_as_are_asked_for_and_the_others_wait(
    grid: DiracxPeer, front: Front, source: GridSource
) -> None:
    jobs = grid.submit(*[ECHO] * 7)
    front.lost = {"POST /api/jobs/search": 2}
    with pytest.raises(SourceUnavailable):
        source.acquire(MANY, 7, "a1")

    def acquired(taking: str) -> Sequence[Acquired]:
        until_s = time.monotonic() + 60
        while True:
            try:
                return source.acquire([OFFER], 3, taking)
            except SourceUnavailable:  # the server has passed a status over: it is set again the next time
                assert time.monotonic() < until_s

    portions = [acquired(taking) for taking in ("b2", "c3", "d4")]

    told = [[(one.taking, min(one.job.attempt, 2)) for one in given] for given in portions]
    assert told == [[("a1", 1)] * 3, [("", 2)] * 3, [("", 2)]]
    assert set().union(*map(by_id, portions)) == set(jobs)


def test_what_was_taken_in_a_call_is_named_while_nothing_is_said_of_it_and_waits_again_for_its_site(
    grid: DiracxPeer, make: Make
) -> None:
    [lost, known, other, later] = grid.submit(ECHO, ECHO, ECHO, f'{ECHO} Site = "{SITE}";')
    first, second = make("dirac"), make("dirac")
    taken = [
        one
        for name, taking in (("dirac", "a1"), ("dirac", "a1"), ("oslo", "a1"), ("dirac", "b2"))
        for one in make(name).acquire([OFFER], 1, taking)
    ]
    assert [int(one.job.id) for one in taken] == [lost, known, other, later]

    until_s = time.monotonic() + 60
    while len(found := list(second.taken(["a1"]))) > 1 and time.monotonic() < until_s:
        assert first.beat([GridProgress(job=taken[1].job, state=JobState.SUBMITTED)]) == []
    also = list(second.taken(["a1", "b2", "c3"]))
    assert [(job.id, job.attempt, kept_of(job).site) for job in found] == [(str(lost), 1, "ANY")]
    assert {job.id: kept_of(job).site for job in also} == {str(lost): "ANY", str(later): SITE}
    second.release(also, "nobody had written it down")
    waiting = grid.rows(lost, later)
    again = second.acquire(MANY, 10, "d4")

    assert [(row["Status"], row["Site"]) for row in waiting.values()] == [("Waiting", "ANY"), ("Waiting", SITE)]
    assert {int(one.job.id) for one in again} == {lost, later}
    # A status that the server has passed over, and that was set again, is in its history twice.
    assert all(one.job.attempt > 1 for one in again)
    assert list(second.taken(["a1", "b2"])) == []
    second.release(also, "it is somebody else's by now")
    assert [grid.rows(job)[job]["Status"] for job in (lost, known, other, later)] == ["Matched"] * 4


@pytest.mark.parametrize(("lost", "is_found"), [("PATCH /api/jobs/metadata", True), ("PATCH /api/jobs/status", False)])
def test_what_was_taken_and_whose_giving_back_is_cut_off_is_found_until_it_waits_for_the_sites_that_it_was_for(
    grid: DiracxPeer, front: Front, source: GridSource, lost: str, is_found: bool
) -> None:
    [job] = grid.submit(ECHO)
    [_] = source.acquire([OFFER], 1, "a1")
    found = source.taken(["a1"])
    front.lost = {lost: 1}
    with pytest.raises(SourceUnavailable):
        source.release(found, "nobody had written it down")

    again = source.taken(["a1"])
    source.release(again, "nobody had written it down")

    assert [one.id for one in again] == [str(job)] * is_found
    assert [(row["Status"], row["Site"]) for row in grid.rows(job).values()] == [("Waiting", "ANY")]


def test_jobs_behind_others_that_nobody_here_can_do_are_found_and_no_description_is_read_twice(
    grid: DiracxPeer, front: Front, source: GridSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matchers, "MOST_LOOKED_AT", 2)
    grid.submit(*[ECHO + "NumberOfProcessors = 200;"] * 9)
    fit = grid.submit(*[ECHO] * 5)

    first, second = (by_id(source.acquire([OFFER], most)).keys() for most in (2, 5))
    asked = front.asked["POST /api/jobs/reschedule"]
    nothing = source.acquire([OFFER], 5)

    assert (len(first), first | second, nothing) == (2, set(fit), [])
    assert front.asked["POST /api/jobs/reschedule"] == asked <= 8


def test_several_threads_that_acquire_are_given_no_job_twice(grid: DiracxPeer, source: GridSource) -> None:
    jobs = grid.submit(*[ECHO] * 12)
    found: list[Acquired] = []
    threads = [threading.Thread(target=lambda: found.extend(source.acquire([OFFER], 3)), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(int(one.job.id) for one in found) == jobs


def test_a_job_that_was_given_up_there_runs_again_with_the_next_beat(grid: DiracxPeer, source: GridSource) -> None:
    [job] = grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)
    assert source.beat([GridProgress(job=taken.job, state=JobState.RUNNING)]) == []
    grid.step([job], "Stalled")
    assert grid.status(job) == "Stalled"
    time.sleep(BEAT_S)

    assert source.beat([GridProgress(job=taken.job, state=JobState.RUNNING)]) == []

    assert grid.status(job) == "Running"
    grid.step([job], "Stalled")
    assert source.finish([ended(taken.job)]) == {}
    assert grid.status(job) == "Done"


def test_a_sandbox_of_diracxs_own_client_is_unpacked(grid: DiracxPeer, source: GridSource, tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("there is no zstd here")
    pfn, _ = grid.upload({"run.sh": b"echo"}, ending="tar.zst")
    grid.submit(f'Executable = "run.sh"; InputSandbox = "{pfn}";')
    [taken] = source.acquire([OFFER], 1)

    source.stage_in(taken.job, taken.work.inputs[0], tmp_path / "archive")

    with tarfile.open(tmp_path / "archive", "r:") as packed:
        assert packed.getnames() == ["run.sh"]


def test_outputs_that_are_too_large_for_a_sandbox_are_told(
    grid: DiracxPeer, source: GridSource, tmp_path: Path
) -> None:
    grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)
    with (tmp_path / "big").open("wb") as file:
        file.truncate(300 << 20)
    ending = ended(taken.job, outputs=[GridOutput(name="big", size=300 << 20, sha256="")])

    with pytest.raises(SourceRefused, match="300 MiB"):
        source.stage_out(ending, lambda name: tmp_path / name)


def test_a_job_that_left_nothing_has_no_sandbox(grid: DiracxPeer, source: GridSource) -> None:
    grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)

    assert source.stage_out(ended(taken.job), lambda name: Path(name)) == ""


def test_only_jobs_with_the_attributes_of_the_settings_are_taken(grid: DiracxPeer, make: Make) -> None:
    grid.submit(ECHO)
    [wanted] = grid.submit(ECHO, user="bob")

    found = make(only={"Owner": "bob"}).acquire(MANY, 10)

    assert [int(one.job.id) for one in found] == [wanted]


def test_ten_jobs_at_once_cost_no_more_questions_than_one(grid: DiracxPeer, front: Front, source: GridSource) -> None:
    grid.submit(*[ECHO] * 10)
    taken = [one.job for one in source.acquire(MANY, 10)]
    assert len(taken) == 10
    front.asked.clear()

    assert source.beat([GridProgress(job=job, state=JobState.RUNNING) for job in taken]) == []
    beat = dict(front.asked)
    front.asked.clear()
    assert source.finish([ended(job) for job in taken]) == {}

    assert beat == {"POST /api/jobs/search": 1, "PATCH /api/jobs/status": 1, "PATCH /api/jobs/heartbeat": 1}
    assert front.asked["PATCH /api/jobs/status"] <= 3
    assert front.asked.total() <= 6
    assert {row["Status"] for row in grid.rows(*(int(job.id) for job in taken)).values()} == {"Done"}


def test_no_job_is_said_to_be_alive_twice_within_two_seconds(
    grid: DiracxPeer, front: Front, source: GridSource
) -> None:
    grid.submit(ECHO)
    [taken] = source.acquire([OFFER], 1)
    front.asked.clear()

    for _ in range(5):
        assert source.beat([GridProgress(job=taken.job, state=JobState.RUNNING)]) == []

    assert front.asked["PATCH /api/jobs/heartbeat"] == 1
    assert front.asked["PATCH /api/jobs/status"] == 1


def test_a_released_job_waits_again_for_whom_it_was(grid: DiracxPeer, source: GridSource) -> None:
    [job] = grid.submit(ECHO + f'Site = {{"{SITE}", "LCG.CERN.ch"}};')
    [first] = source.acquire([OFFER], 1)

    source.release([first.job], "no machine")
    source.release([first.job], "no machine")

    row = grid.rows(job)[job]
    assert (row["Status"], row["Site"], row["MinorStatus"]) == ("Waiting", "Multiple", "Given back: no machine")
    [second] = source.acquire([OFFER], 1)
    assert (second.job.id, second.job.attempt) == (first.job.id, 2)


def test_a_sandbox_comes_down_with_the_digest_that_its_name_has(
    grid: DiracxPeer, source: GridSource, tmp_path: Path
) -> None:
    pfn, body = grid.upload({"run.sh": b"#!/bin/sh\necho hi\n", "dir/data": b"\0" * 100_000})
    assert hashlib.sha256(body).hexdigest() in pfn
    grid.submit(f'Executable = "run.sh"; InputSandbox = {{"{pfn}"}};')
    [taken] = source.acquire([OFFER], 1)
    [wanted] = taken.work.inputs

    source.stage_in(taken.job, wanted, tmp_path / "archive")

    with tarfile.open(tmp_path / "archive", "r:") as packed:
        assert packed.extractfile("run.sh").read() == b"#!/bin/sh\necho hi\n"
        assert packed.extractfile("dir/data").read() == b"\0" * 100_000
    source.stage_in(taken.job, wanted, tmp_path / "archive")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "operator.json", "pilot.json"]


def test_a_sandbox_that_is_no_archive_is_refused(grid: DiracxPeer, source: GridSource, tmp_path: Path) -> None:
    for ending in ("tar.bz2", "tar.zst"):
        pfn = grid.upload_bytes(b"no archive at all " * 1000, ending)
        grid.submit(f'Executable = "run.sh"; InputSandbox = "{pfn}";')
        [taken] = source.acquire([OFFER], 1)

        with pytest.raises(SourceRefused, match="unpack"):
            source.stage_in(taken.job, taken.work.inputs[0], tmp_path / "archive")


def test_another_sandbox_than_its_name_says_is_not_taken(
    grid: DiracxPeer, front: Front, source: GridSource, tmp_path: Path
) -> None:
    pfn, _ = grid.upload({"run.sh": b"one"})
    other, _ = grid.upload({"run.sh": b"two"})
    url = grid.ask("alice", "user", "GET", "/api/jobs/sandbox", params={"pfn": other}).json()["url"]
    front.answerer = lambda method, path: (
        (200, {"Content-Type": "application/json"}, msgspec.json.encode({"url": url, "expires_in": 300}))
        if path == "/api/jobs/sandbox"
        else None
    )
    grid.submit(f'Executable = "run.sh"; InputSandbox = {{"{pfn}"}};')
    [taken] = source.acquire([OFFER], 1)

    with pytest.raises(SourceUnavailable, match="digest"):
        source.stage_in(taken.job, taken.work.inputs[0], tmp_path / "archive")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "<html><body>Welcome to the portal</body></html>", SourceUnavailable),
        (200, '[{"JobID": "x"}]', SourceUnavailable),
        (200, "", SourceUnavailable),
        (500, "Internal Server Error", SourceUnavailable),
        (503, "<html>busy</html>", SourceUnavailable),
        (302, "", SourceUnavailable),
        (401, '{"detail": "Invalid JWT"}', SourceUnavailable),
        (403, '{"detail": "Forbidden"}', SourceDenied),
        (400, '{"detail": "Unrecognised parameters"}', SourceDenied),
        (404, "<html>no such page</html>", SourceDenied),
    ],
)
def test_an_answer_that_is_none_is_said_in_words(
    grid: DiracxPeer, front: Front, make: Make, status: int, body: str, kind: type[SourceError], tmp_path: Path
) -> None:
    bearer = tmp_path / "bearer"
    bearer.touch(0o600)
    bearer.write_text("a.secret.token")
    source = make(operator_credential=str(bearer), pilot_credential=str(bearer))
    front.says(status, body, Location="http://127.0.0.1:1/elsewhere")

    for call in (lambda: source.acquire([OFFER], 1), lambda: source.beat([_RUNNING]), lambda: source.finish([_ENDED])):
        with pytest.raises(kind) as caught:
            call()
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 700
        assert str(caught.value).isprintable()


_RUNNING = GridProgress(job=GridJob(id="1"), state=JobState.RUNNING)
_ENDED = GridEnding(job=GridJob(id="1"), state=JobState.DONE)


def test_a_slow_server_is_not_waited_for(front: Front, make: Make) -> None:
    source = make(timeout_s=1)
    front.delay_s = 5
    began = time.monotonic()

    with pytest.raises(SourceUnavailable, match="within 1 s"):
        source.acquire([OFFER], 1)

    assert time.monotonic() - began < 4


def test_a_token_that_has_expired_is_refreshed_and_kept(
    grid: DiracxPeer, front: Front, make: Make, tmp_path: Path
) -> None:
    source = make()
    before = {}
    for name in ("operator.json", "pilot.json"):
        kept = msgspec.json.decode((tmp_path / name).read_bytes())
        before[name] = kept["access_token"]
        (tmp_path / name).write_bytes(msgspec.json.encode(kept | {"expires_on": int(time.time()) - 10}))
    grid.submit(ECHO)

    assert len(source.acquire([OFFER], 1)) == 1

    assert front.asked["POST /api/auth/token"] == 2
    for name, token in before.items():
        kept = msgspec.json.decode((tmp_path / name).read_bytes())
        assert kept["access_token"] != token
        assert kept["expires_on"] > time.time()
        assert kept["refresh_token"]
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    source.acquire([OFFER], 1)
    assert front.asked["POST /api/auth/token"] == 2


def test_a_token_that_the_server_refuses_is_refreshed_once(front: Front, make: Make) -> None:
    source = make()
    refusals = 1

    def refuse(method: str, path: str) -> tuple[int, dict[str, str], bytes] | None:
        nonlocal refusals
        refusals -= path == "/api/jobs/search"
        return (401, {}, b'{"detail": "Invalid JWT"}') if path == "/api/jobs/search" and refusals >= 0 else None

    front.answerer = refuse

    assert source.acquire([OFFER], 1) == []
    assert front.asked["POST /api/auth/token"] == 1
    assert front.asked["POST /api/jobs/search"] == 2


def test_a_refused_token_with_nothing_to_refresh_it_is_said_with_its_file(
    front: Front, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bearer = tmp_path / "bearer"
    bearer.touch(0o600)
    bearer.write_text("not.a.token\n")
    source = make(operator_credential=str(bearer))

    with pytest.raises(SourceUnavailable, match="log in again") as caught:
        source.acquire([OFFER], 1)

    assert str(bearer) in str(caught.value)
    assert "not.a.token" not in str(caught.value) + caplog.text


def test_a_bearer_token_that_something_else_renews_is_read_again(grid: DiracxPeer, make: Make, tmp_path: Path) -> None:
    bearer = tmp_path / "bearer"
    bearer.touch(0o600)
    bearer.write_text("not.a.token\n")
    source = make(operator_credential=str(bearer))
    with pytest.raises(SourceUnavailable):
        source.acquire([OFFER], 1)

    bearer.write_text(grid.login("operator", "operators")["access_token"])

    assert source.acquire([OFFER], 1) == []


def test_the_pilots_credential_does_not_search(grid: DiracxPeer, make: Make, tmp_path: Path) -> None:
    source = make(operator_credential=str(grid.credential(tmp_path / "p.json", "pilot", "pilots")))

    with pytest.raises(SourceDenied, match="operator_credential"):
        source.acquire([OFFER], 1)


def test_every_step_is_one_that_the_servers_own_state_machine_takes() -> None:
    demand_diracx()
    ask = (
        "import json; from DIRACCommon.WorkloadManagementSystem.Client.JobStatus import JobsStateMachine as M;"
        "print(json.dumps({name: state.stateMap for name, state in M('Waiting').states.items()}))"
    )
    said = subprocess.run([PYTHON, "-c", ask], capture_output=True, check=True, timeout=60).stdout

    allowed = msgspec.json.decode(said, type=dict[str, list[str]])

    # The server takes a job that it has given up for one that runs.
    allowed["Stalled"] = allowed["Running"]
    steps = {(before, after) for way in STEPS.values() for before, after in way.items()}
    assert {(before, after) for before, after in steps if after not in allowed[before]} == set()
