"""What every source does, whatever grid it speaks to: the port of ``adapters.sources.contract``."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from adapters.errors import NoStagingRoom, SourceRefused, SourceUnavailable
from adapters.sources import remembered, spool, spool_inbox
from adapters.sources.contract import (
    MOST_INPUT_BYTES,
    Acquired,
    GridEnding,
    GridInput,
    GridJob,
    GridOutput,
    GridProgress,
    GridSource,
    GridWork,
    Offer,
)
from adapters.sources.memory import MemoryGrid, MemorySource
from adapters.sources.spool import SpoolSource
from adapters.sources.spool_files import read_file
from broker import reserve
from broker.reserve import DiskRoom
from schemas.description import Requirements
from schemas.jobs import Machine
from schemas.ledger import JobState
from tests.sources.panda_played import PandaPlayed

MACHINE = Machine(cpus=2, memory_mib=2048, disk_mib=8192, platform="linux/x86_64")
OFFER = Offer(MACHINE, 10)


class Grid(Protocol):
    """A grid as its users see it."""

    def source(self) -> GridSource:
        """Give one more source for it."""

    def submit(self, work: GridWork, files: dict[str, bytes] | None = None) -> None:
        """Submit a job; inputs' ``where`` are keys of ``files``."""

    def kill(self, job: GridJob) -> None:
        """Kill a job."""

    def finals(self) -> list[tuple[str, str]]:
        """Give every final status that was set, with the job's id."""

    def output(self, job: GridJob, name: str) -> bytes:
        """Read an output from its sandbox."""


class InMemory:
    def __init__(self, directory: Path) -> None:
        self.grid = MemoryGrid()

    def source(self) -> GridSource:
        return MemorySource(self.grid)

    def submit(self, work: GridWork, files: dict[str, bytes] | None = None) -> None:
        self.grid.submit(work, files)

    def kill(self, job: GridJob) -> None:
        self.grid.kill(job.id)

    def finals(self) -> list[tuple[str, str]]:
        return [(job.id, str(one.state)) for job in self.grid.ended() for one in job.finals]

    def output(self, job: GridJob, name: str) -> bytes:
        return self.grid.jobs[job.id].outputs[name]


def name_of(job: GridJob) -> str:
    return job.id.rpartition("-")[0]


class Spooled:
    def __init__(self, directory: Path) -> None:
        self.directory = directory / "spool"
        self.count = 0
        SpoolSource(self.directory)

    def source(self) -> GridSource:
        return SpoolSource(self.directory)

    def submit(self, work: GridWork, files: dict[str, bytes] | None = None) -> None:
        for name, content in (files or {}).items():
            (self.directory / "files" / name).write_bytes(content)
        self.count += 1
        told: dict[str, Any] = {
            "executable": work.executable,
            "inputs": [one.where for one in work.inputs],
            "requirements": {"cpus": work.requirements.cpus},
        }
        (self.directory / f"new/job-{self.count}.json").write_text(json.dumps(told))

    def kill(self, job: GridJob) -> None:
        (self.directory / f"taken/{name_of(job)}.kill").touch()

    def finals(self) -> list[tuple[str, str]]:
        return [(path.stem, json.loads(path.read_text())["state"]) for path in (self.directory / "done").iterdir()]

    def output(self, job: GridJob, name: str) -> bytes:
        return (self.directory / "out" / name_of(job) / name).read_bytes()


@pytest.fixture(params=[InMemory, Spooled, PandaPlayed], ids=["memory", "spool", "panda"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Grid]:
    made: Grid = request.param(tmp_path)
    yield made
    if isinstance(made, PandaPlayed):
        made.close()


TRUE = GridWork(executable="/bin/true")


def one(source: GridSource) -> Acquired:
    (job,) = source.acquire([OFFER], 1)
    return job


def ending(job: GridJob, state: JobState = JobState.DONE, **more: Any) -> GridEnding:
    return GridEnding(job=job, state=state, exit_status=0, ended_ms=1764000007000, **more)


def progress(job: GridJob, state: JobState = JobState.RUNNING) -> GridProgress:
    return GridProgress(job=job, state=state, started_ms=1764000000000)


def test_a_grid_that_has_nothing_gives_nothing(grid: Grid) -> None:
    assert list(grid.source().acquire([OFFER], 5)) == []


def test_no_more_is_given_than_was_asked_for_and_nothing_twice(grid: Grid) -> None:
    for _ in range(5):
        grid.submit(TRUE)
    source, other = grid.source(), grid.source()

    given = [[job.job.id for job in asked.acquire([OFFER], 2)] for asked in (source, other, source, other)]

    assert [len(ids) for ids in given] == [2, 2, 1, 0]
    assert len({job for ids in given for job in ids}) == 5


def test_what_fits_no_offer_is_left_to_others(grid: Grid) -> None:
    grid.submit(GridWork(executable="/bin/true", requirements=Requirements(cpus=64)))

    assert list(grid.source().acquire([OFFER], 5)) == []
    assert len(grid.source().acquire([Offer(Machine(cpus=64, memory_mib=1, disk_mib=1, platform=""), 1)], 5)) == 1


def test_an_input_comes_whole_and_one_that_is_not_there_is_refused_by_name(grid: Grid, tmp_path: Path) -> None:
    content = b"\0\xff" * 70_000
    inputs = [GridInput(name="data", where="data"), GridInput(name="gone", where="gone")]
    grid.submit(GridWork(executable="/bin/true", inputs=inputs), {"data": content})
    source = grid.source()
    job = one(source)
    assert job.work is not None
    there, gone = job.work.inputs

    source.stage_in(job.job, there, tmp_path / "a")
    with pytest.raises(SourceRefused, match="gone"):
        source.stage_in(job.job, gone, tmp_path / "b")

    assert (tmp_path / "a").read_bytes() == content


def test_a_stop_is_said_until_the_job_is_not_named_any_more(grid: Grid) -> None:
    grid.submit(TRUE)
    grid.submit(TRUE)
    source = grid.source()
    jobs = [job.job for job in source.acquire([OFFER], 2)]

    before = list(source.beat([progress(job) for job in jobs]))
    grid.kill(jobs[0])
    after = [[stop.id for stop in source.beat([progress(job) for job in jobs])] for _ in range(2)]

    assert before == []
    assert after == [[jobs[0].id]] * 2
    assert [stop.id for stop in source.beat([progress(jobs[1])])] == []


def test_what_was_taken_in_a_call_is_named_and_given_back_while_nothing_is_said_of_it_and_nobody_else_has_it(
    grid: Grid,
) -> None:
    for _ in range(3):
        grid.submit(TRUE)
    source, other = grid.source(), grid.source()
    if not source.names_takings:
        pytest.skip("its takings have no names")
    lost, spoken_of = (given.job for given in source.acquire([OFFER], 2, "a1"))
    [later] = (given.job for given in other.acquire([OFFER], 5, "b2"))
    other.beat([progress(spoken_of)])

    named = list(other.taken(["a1", "c3"]))
    nothing = list(other.taken(["c3"])) + list(other.taken([]))
    other.release(named, "nobody had written it down")
    [again] = (given.job for given in source.acquire([OFFER], 5, "d4"))
    other.release(named, "nobody had written it down")

    assert [job.id for job in named] == [lost.id]
    assert nothing == []
    assert again.id == lost.id
    assert list(source.acquire([OFFER], 5, "e5")) == []
    assert [[job.id for job in source.taken([name])] for name in ("a1", "b2", "d4")] == [[], [later.id], [lost.id]]


def test_a_job_that_its_grid_does_not_know_is_stopped(tmp_path: Path) -> None:
    stops = InMemory(tmp_path).source().beat([progress(GridJob(id="unheard-of"))])

    assert [stop.id for stop in stops] == ["unheard-of"]


def test_outputs_are_in_the_sandbox_whole_also_when_they_are_stored_again(grid: Grid, tmp_path: Path) -> None:
    grid.submit(TRUE)
    source = grid.source()
    job = one(source).job
    contents = {"stdout": b"hi\n", "empty": b"", "large.bin": bytes(range(256)) * 4000}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    outputs = [
        GridOutput(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    ]

    names = [source.stage_out(ending(job, outputs=outputs), lambda name: tmp_path / name) for _ in range(2)]

    assert names[0] == names[1] != ""
    assert {name: grid.output(job, name) for name in contents} == contents


@pytest.mark.parametrize("state", [JobState.DONE, JobState.HELD, JobState.CANCELLED])
def test_a_final_status_is_set_once_and_stays(grid: Grid, state: JobState) -> None:
    grid.submit(TRUE)
    source = grid.source()
    job = one(source).job
    source.beat([progress(job)])

    told = [
        source.finish([ending(job, state, cause="it said so")]),
        source.finish([ending(job, state)]),
        grid.source().finish([ending(job, JobState.DONE)]),
    ]

    assert [dict(words) for words in told] == [{}, {}, {}]
    assert [(name in job.id, said) for name, said in grid.finals()] == [(True, str(state))]


def test_one_that_was_given_back_is_given_again(grid: Grid) -> None:
    grid.submit(TRUE)
    source = grid.source()
    job = one(source).job

    for _ in range(2):
        source.release([job, GridJob(id="unheard-of")], "no VM could take it")

    assert one(grid.source()).job.id == job.id


def test_closing_is_done_as_often_as_one_likes(grid: Grid) -> None:
    """What is closed is its own: another source for that grid goes on."""
    source, other = grid.source(), grid.source()
    grid.submit(TRUE)

    source.close()
    source.close()

    assert one(other).work is not None


NONSENSE = {
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "an unknown key": b'{"executable": "x", "priorty": 1}',
    "a negative time": b'{"executable": "x", "wall_time_s": -1}',
    "a path that leads out": b'{"executable": "x", "inputs": ["../a"]}',
    "no text": b'{"executable": "\xff"}',
    "too long": b" " * (5 << 20),
    "too many inputs": json.dumps({"executable": "x", "inputs": ["a"] * 10_000}).encode(),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_job_file_that_makes_no_sense_is_a_job_with_a_flaw(tmp_path: Path, kind: str) -> None:
    grid = Spooled(tmp_path)
    (grid.directory / "new/bad.json").write_bytes(NONSENSE[kind])

    job = one(grid.source())

    assert (name_of(job.job), job.work) == ("bad", None)
    assert "bad.json" in job.flaw
    assert len(job.flaw) < 2000


def test_who_may_write_into_a_spool_reads_nothing_else_by_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"executable": "secret"}')
    grid = Spooled(tmp_path)
    (grid.directory / "new/link.json").symlink_to(secret)
    (grid.directory / "files/link").symlink_to(secret)
    (grid.directory / "files/up").symlink_to(tmp_path)
    source = grid.source()

    assert list(source.acquire([OFFER], 5)) == []
    for where in ("link", "up/secret", "../../secret", "/etc/passwd"):
        with pytest.raises(SourceRefused):
            source.stage_in(GridJob(id="j"), GridInput(name="a", where=where), tmp_path / "target")
    assert not (tmp_path / "target").exists()


def refuse_as_to_others(path: Path, *_: object, **__: object) -> None:
    """Only its owner may set a file's times."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))


def test_a_name_may_be_used_again_once_what_bore_it_is_taken_away(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source = grid.source()
    grid.submit(TRUE)
    first = one(source).job
    source.stage_out(ending(first), lambda name: tmp_path / name)
    source.finish([ending(first)])
    new, told = grid.directory / "new/job-1.json", grid.directory / "new/job-1.refused"
    new.write_text('{"executable": "/bin/false"}')

    while_there = list(source.acquire([OFFER], 5))
    words = told.read_text()
    (grid.directory / "done/job-1.json").unlink()
    (grid.directory / "out/job-1").rmdir()
    second = one(source)

    assert while_there == []
    assert words == "done/job-1.json is there: take it away, or choose another name\n"
    assert (second.job.id != first.id, second.work and second.work.executable) == (True, "/bin/false")
    assert not told.exists()


@pytest.mark.parametrize("is_another_users", [False, True])
def test_a_job_that_is_fed_again_with_the_time_of_the_one_before_is_another_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_another_users: bool
) -> None:
    grid = Spooled(tmp_path)
    source, kept = grid.source(), tmp_path / "job.json"
    kept.write_text('{"executable": "/bin/true"}')
    if is_another_users:
        monkeypatch.setattr(os, "utime", refuse_as_to_others)
    jobs, again = [], []
    for _ in range(2):
        shutil.copyfile(kept, grid.directory / "new/job-1.json")
        subprocess.run(["touch", "-r", kept, grid.directory / "new/job-1.json"], check=True)
        jobs.append(one(source).job)
        with monkeypatch.context() as later:
            later.setattr(spool, "SILENT_S", 0.0)
            again.append(one(grid.source()).job)
        source.finish([ending(jobs[-1])])
        (grid.directory / "done/job-1.json").unlink()

    assert len({job.id for job in jobs}) == 2
    assert again == jobs, "what is given again is the same job"


def test_a_job_that_was_given_back_is_itself_once_and_what_is_fed_in_its_place_is_another(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source, new = grid.source(), grid.directory / "new/job-1.json"
    grid.submit(TRUE)
    job = one(source).job
    source.release([job], "nobody can do it")
    again = one(source).job
    source.release([again], "nobody can do it")
    new.unlink()
    new.write_text('{"executable": "/bin/false"}')

    other = one(source).job

    assert again == job
    assert other.id != job.id
    assert list(new.parent.iterdir()) == []


def test_what_stands_in_the_way_of_giving_one_back_is_no_others_trouble(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source = grid.source()
    for _ in range(3):
        grid.submit(TRUE)
    jobs = [given.job for given in source.acquire([OFFER], 3)]
    (grid.directory / "new/job-1.kept").mkdir()
    (grid.directory / "taken/job-2.json").unlink()

    source.release(jobs, "they could not be written down")

    given = [name_of(given.job) for given in source.acquire([OFFER], 3)]
    assert given == ["job-1", "job-3"]


def test_a_job_whose_adapter_is_killed_while_it_takes_it_is_itself_and_no_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, kept, ids = Spooled(tmp_path), tmp_path / "job.json", set()
    kept.write_text('{"executable": "/bin/true"}')
    for _ in range(2):
        new = grid.directory / "new/job-1.json"
        shutil.copyfile(kept, new)
        subprocess.run(["touch", "-r", kept, new], check=True)
        with monkeypatch.context() as at_the_kill:
            at_the_kill.setattr(spool_inbox, "read_file", ReadThenKilled())
            with pytest.raises(KeyboardInterrupt):
                grid.source().acquire([OFFER], 1)
        with monkeypatch.context() as later:
            later.setattr(spool, "SILENT_S", 0.0)
            source = grid.source()
            job = one(source).job
        ids.add(job.id)
        source.finish([ending(job)])
        (grid.directory / "done/job-1.json").unlink()

    assert len(ids) == 2


class ReadThenKilled:
    """Reads a job file in ``new``; who reads it in ``taken``, just after the rename, is killed."""

    def __call__(self, directory: Path, name: str, mark: bytes = b"") -> Acquired | None:
        if directory.name == "taken":
            raise KeyboardInterrupt
        return read_file(directory, name)


def test_a_spool_that_is_gone_for_a_while_stops_no_job(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source = grid.source()
    grid.submit(TRUE)
    job = one(source).job
    grid.directory.rename(tmp_path / "away")

    for call in (lambda: source.beat([progress(job)]), lambda: source.acquire([OFFER], 1)):
        with pytest.raises(SourceUnavailable, match="No such file or directory"):
            call()
    (tmp_path / "away").rename(grid.directory)
    assert list(source.beat([progress(job)])) == []


def test_a_job_of_a_spool_whose_file_is_taken_away_is_stopped(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source = grid.source()
    for _ in range(2):
        grid.submit(TRUE)
    jobs = [one.job for one in source.acquire([OFFER], 2)]
    (grid.directory / f"taken/{name_of(jobs[0])}.json").unlink()

    stops = source.beat([progress(job) for job in jobs])

    assert [(stop.id, stop.why) for stop in stops] == [(jobs[0].id, "taken/job-1.json is not there any more")]


def test_what_was_taken_and_of_which_nobody_speaks_is_given_again_under_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Spooled(tmp_path)
    for _ in range(2):
        grid.submit(TRUE)
    lost, spoken_of = (job.job for job in grid.source().acquire([OFFER], 2))
    source = grid.source()
    source.beat([progress(spoken_of)])
    at_once = list(source.acquire([OFFER], 5))
    later_s = time.time() + spool.SILENT_S + 1
    monkeypatch.setattr(spool.time, "time", lambda: later_s)

    again = [job.job for job in source.acquire([OFFER], 5)]

    assert at_once == []
    assert again == [lost]


def test_an_input_that_is_too_large_is_refused_and_not_copied(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    with (grid.directory / "files/huge").open("wb") as file:
        file.truncate(MOST_INPUT_BYTES + 1)

    with pytest.raises(SourceRefused, match=r"input a: .*files/huge: it has more than 16 GiB"):
        grid.source().stage_in(GridJob(id="j"), GridInput(name="a", where="huge"), tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_an_input_for_which_there_is_no_room_here_is_our_trouble_and_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Spooled(tmp_path)
    with (grid.directory / "files/large").open("wb") as file:
        file.truncate(1 << 30)
    little = DiskRoom(size=100 << 30, free=reserve.RESERVE_BYTES + (100 << 20))
    monkeypatch.setattr(reserve, "look", lambda place, kept=None: little)

    with pytest.raises(NoStagingRoom, match=r"input a: .*files/large: no room for it here"):
        grid.source().stage_in(GridJob(id="j"), GridInput(name="a", where="large"), tmp_path / "target")
    assert (tmp_path / "target").stat().st_size == 0


def test_what_others_put_into_a_spool_is_no_other_jobs_trouble(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source, new, taken = grid.source(), grid.directory / "new", grid.directory / "taken"
    for _ in range(2):
        grid.submit(TRUE)
    (new / f"{'a' * 248}.json").write_text("{}")
    (new / "a.json").write_text('{"executable": "/bin/true"}')
    (new / "a.refused").mkdir()
    (new / "b.json").mkdir()
    os.mkfifo(new / "c.json")
    (new / "d.json").symlink_to("/etc/passwd")
    for name in ("e", "f"):
        (taken / f"{name}.json").symlink_to("nowhere")

    given = source.acquire([OFFER], 5)

    assert [name_of(job.job) for job in given] == ["job-1", "job-2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="what another user owns only root can make")
def test_a_silent_job_of_another_user_is_given_again_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Spooled(tmp_path)
    monkeypatch.setattr(spool, "SILENT_S", 0.0)
    grid.submit(TRUE)
    lost = one(grid.source()).job
    monkeypatch.setattr(os, "utime", refuse_as_to_others)
    os.chown(grid.directory / f"taken/{name_of(lost)}.json", 65534, 65534)
    grid.submit(TRUE)

    given = grid.source().acquire([OFFER], 5)

    assert [name_of(job.job) for job in given] == ["job-1", "job-2"]
    assert given[0].job == lost


def test_an_old_jobs_words_leave_the_new_job_of_its_name_alone(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source, name = grid.source(), "job-1"
    grid.submit(TRUE)
    old = one(source).job
    source.finish([ending(old)])
    (grid.directory / f"done/{name}.json").unlink()
    (grid.directory / f"new/{name}.json").write_text('{"executable": "/bin/false"}')
    new = one(source).job
    waiting = grid.directory / f"new/{name}.json"

    source.finish([ending(old)])
    source.stage_out(ending(old), lambda name: tmp_path / name)
    source.release([old], "nobody can do it")
    stops = source.beat([progress(new), progress(old)])
    waiting.write_text('{"executable": "/bin/sleep"}')
    source.release([new], "nobody can do it")

    assert not (grid.directory / f"done/{name}.json").exists()
    assert not (grid.directory / f"out/{name}").exists()
    assert [stop.id for stop in stops] == [old.id]
    assert "sleep" in waiting.read_text(), "what waits under its name is not written over"
    assert "false" in (grid.directory / f"taken/{name}.json").read_text()


def test_a_file_of_before_1970_is_a_job_as_others_are(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source = grid.source()
    grid.submit(TRUE)
    os.utime(grid.directory / "new/job-1.json", ns=(0, -5_000_000_000))
    job = one(source).job

    source.finish([ending(job)])

    assert name_of(job) == "job-1"
    assert grid.finals() == [("job-1", "done")]


def test_of_however_many_jobs_a_status_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Spooled(tmp_path)
    source, written = grid.source(), list[Path]()
    monkeypatch.setattr(remembered, "MOST", 10)
    for _ in range(60):
        grid.submit(TRUE)
    gone = [job.job for job in source.acquire([OFFER._replace(slots=50)], 50)]
    source.beat([progress(job) for job in gone])
    source.finish([ending(job) for job in gone])
    live = [job.job for job in source.acquire([OFFER], 10)]
    monkeypatch.setattr(spool, "write", lambda path, told: written.append(path))

    for _ in range(3):
        source.beat([progress(job) for job in live])

    assert len(written) == 10


def test_what_stands_in_one_jobs_way_is_its_own_trouble(tmp_path: Path) -> None:
    grid = Spooled(tmp_path)
    source = grid.source()
    for _ in range(3):
        grid.submit(TRUE)
    (grid.directory / "taken/job-1.json").mkdir()
    jobs = [job.job for job in source.acquire([OFFER], 5)]
    (grid.directory / f"taken/{name_of(jobs[0])}.status").mkdir()
    grid.kill(jobs[1])

    stops = [stop.id for stop in source.beat([progress(job) for job in jobs])]
    (grid.directory / f"done/{name_of(jobs[0])}.json").mkdir()
    told = source.finish([ending(job) for job in jobs])

    assert [name_of(job) for job in jobs] == ["job-2", "job-3"]
    assert stops == [jobs[1].id]
    assert dict(told) == {} or list(told) == [jobs[0].id]
    assert (grid.directory / f"done/{name_of(jobs[1])}.json").is_file()
