"""A story that is played on the real PanDA server and on the one that plays it, and what was said in it.

What is said must be the same on both, once numbers of jobs and addresses have been replaced. The words of the real one
are kept in ``docs/howto/panda-transcript.txt``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.errors import SourceDenied, SourceUnavailable
from adapters.sources.contract import GridEnding, GridJob, GridOutput, GridProgress, GridSource, Offer
from adapters.sources.panda import make_panda
from schemas.jobs import Machine
from schemas.ledger import JobState
from tests.sources.front import Exchange, Front
from tests.sources.panda_jobs import NO_ENDPOINT, PandaGrid, file, job
from tests.sources.panda_played import settings_for, token_file, unpacked

TRANSCRIPT = Path(__file__).parents[2] / "docs" / "howto" / "panda-transcript.txt"
OFFER = Offer(Machine(cpus=4, memory_mib=4000, disk_mib=10_000, platform="linux-x86_64", slots=4), 4)
BEGAN_MS, ENDED_MS = 1_764_000_000_000, 1_764_000_060_000
#: More than any job of a story has for its number.
UNKNOWN = 999_999_999


class PandaStory:
    """A source that speaks with a server through a front, and what users do beside it."""

    def __init__(self, grid: PandaGrid, front: Front, directory: Path) -> None:
        self.grid, self.front, self.directory = grid, front, directory
        storage = {NO_ENDPOINT: "https://storage.example.org/rucio"}
        settings = settings_for(grid, directory, url=front.url, storage=storage, resource_types={"SCORE": 1})
        self.settings = settings
        self.source: GridSource = make_panda(settings, "panda")

    def take(self, **more: Any) -> GridJob:
        """Submit a job, and be given it."""
        number = self.grid.submit(job(**more), [file("log", "log.tgz")])
        [given] = self.source.acquire([OFFER._replace(slots=1)], 1)
        assert (given.job.id, given.flaw) == (str(number), "")
        return given.job

    def beat(self, one: GridJob, state: JobState = JobState.RUNNING) -> list[str]:
        """Say how a job is; gives the jobs that are to be stopped."""
        began = BEGAN_MS if state in (JobState.RUNNING, JobState.STAGE_OUT) else 0
        return [stop.id for stop in self.source.beat([GridProgress(job=one, state=state, started_ms=began)])]

    def finish(self, one: GridJob, state: JobState, **more: Any) -> dict[str, str]:
        ending = GridEnding(job=one, state=state, started_ms=BEGAN_MS, ended_ms=ENDED_MS, **more)
        return dict(self.source.finish([ending]))

    def status(self, one: GridJob) -> str:
        return self.grid.status(int(one.id))[0]

    def ends(self, one: GridJob) -> str:
        """Have PanDA's daemon look at reports; gives how a job is then, that was holding."""
        assert self.status(one) == "holding"
        self.grid.tend()
        return self.status(one)

    def a_job_goes_its_way(self) -> None:
        assert list(self.source.acquire([OFFER], 5)) == []
        data = file("input", "in put.dat", fsize=5, checksum="ad:0a1b2c3d")
        number = self.grid.submit(
            job("/bin/echo", "-n 'hello world' $HOME", minRamCount=500, maxDiskCount=100),
            [data, file("input", "more.dat"), file("output", "out.dat"), file("log", "log.tgz")],
        )
        [given] = self.source.acquire([OFFER], 5)
        one, work = given.job, given.work
        assert (one.id, one.attempt, given.flaw, self.status(one)) == (str(number), 1, "", "sent")
        assert work is not None
        assert (work.executable, work.arguments) == ("/bin/echo", ["-n", "hello world", "$HOME"])
        assert [(wanted.name, wanted.where.partition("#")[2]) for wanted in work.inputs] == [
            ("in put.dat", "checksum=ad:0a1b2c3d&size=5"),
            ("more.dat", "checksum=&size=-1"),
        ]
        assert (work.outputs, work.wall_time_s, work.priority) == (["out.dat"], 600.0, 1000)
        assert (work.requirements.memory_mib, work.requirements.disk_mib) == (500, 100)
        self._runs(one)
        self._leaves_something(one)

    def _runs(self, one: GridJob) -> None:
        steps = [JobState.SUBMITTED, JobState.STAGE_IN, JobState.RUNNING, JobState.STAGE_OUT]
        seen = []
        for state in steps:
            assert self.beat(one, state) == []
            seen.append(self.status(one))
        assert seen == ["starting", "starting", "running", "transferring"]

    def _leaves_something(self, one: GridJob) -> None:
        contents = {"stdout": b"hello world", "out.dat": b"data" * 1000}
        for name, content in contents.items():
            (self.directory / name).write_bytes(content)
        outputs = [GridOutput(name=name, size=len(content), sha256="") for name, content in contents.items()]
        known = {"adler32": "01234567", "url": "https://storage.example.org/out.dat"}
        outputs[1] = msgspec.structs.replace(outputs[1], **known)
        ending = GridEnding(job=one, state=JobState.DONE, outputs=outputs)
        words = [self.source.stage_out(ending, lambda name: self.directory / name) for _ in range(2)]
        name = words[0].partition("#")[0].rpartition("/")[2]
        assert words[0] == words[1]
        assert unpacked(self.grid.cached(name)) == contents
        told = {"exit_status": 0, "outputs": outputs, "sandbox": words[0]}
        assert self.finish(one, JobState.DONE, **told) == {}
        assert self.finish(one, JobState.DONE, **told) == {}
        assert self.finish(one, JobState.HELD, cause="too late") == {}
        assert self.ends(one) == "finished"
        assert self.finish(one, JobState.DONE, **told) == {}

    def jobs_fail(self) -> None:
        for exit_status, cause in ((3, "out of memory"), (-1, "no such program"), (0, "out.dat is not there")):
            one = self.take()
            assert self.finish(one, JobState.HELD, exit_status=exit_status, cause=cause) == {}
            assert self.ends(one) == "failed"

    def a_running_job_is_killed(self) -> None:
        one = self.take()
        assert self.beat(one) == []
        self.grid.kill(int(one.id))
        assert self.beat(one) == [one.id]
        assert self.beat(one) == [one.id]
        assert self.finish(one, JobState.CANCELLED, cause="stopped by its grid") == {}
        assert self.ends(one) == "cancelled"

    def a_job_is_killed_before_it_runs(self) -> None:
        one = self.take()
        assert self.beat(one, JobState.SUBMITTED) == []
        self.grid.kill(int(one.id))
        assert self.beat(one, JobState.SUBMITTED) == [one.id]
        assert self.finish(one, JobState.CANCELLED) == {}
        assert self.status(one) == "cancelled"

    def a_try_is_over(self) -> None:
        one = self.take()
        stale = msgspec.structs.replace(one, attempt=5)
        assert self.beat(stale) == [one.id]
        assert "try 0" in self.finish(stale, JobState.DONE)[one.id]
        assert self.status(one) == "sent"
        gone = GridJob(id=str(UNKNOWN))
        assert self.beat(gone) == [gone.id]
        assert self.finish(gone, JobState.DONE) == {gone.id: "it is not known at the grid"}
        self.source.release([one, gone], "no machine could take it")
        assert self.ends(one) == "failed"

    def a_production_job_is_given_back(self) -> None:
        number = self.grid.submit(job(prodSourceLabel="managed"))
        source = make_panda(msgspec.structs.replace(self.settings, label="managed"), "panda")
        [given] = source.acquire([OFFER], 1)
        source.release([given.job], "no machine could take it")
        source.close()
        assert (given.job.id, self.ends(given.job)) == (str(number), "closed")
        assert self.beat(given.job) == [given.job.id]

    def an_answer_is_lost(self) -> None:
        number = self.grid.submit(job())
        self.front.lost = {"POST /api/v1/pilot/acquire_jobs": 1}
        with pytest.raises(SourceUnavailable):
            self.source.acquire([OFFER], 1)
        assert list(self.source.acquire([OFFER], 1)) == []
        lost = GridJob(id=str(number))
        assert self.status(lost) == "sent"
        self.grid.give_up(number)
        assert self.status(lost) == "failed"
        assert self.beat(lost) == [lost.id]

    def a_token_expires(self) -> None:
        token_file(self.directory / "panda.token", self.grid.pilot(-10))
        with pytest.raises(SourceUnavailable, match="expired"):
            self.source.acquire([OFFER], 1)
        token_file(self.directory / "panda.token", self.grid.pilot())
        assert list(self.source.acquire([OFFER], 1)) == []

    def a_user_is_no_pilot(self) -> None:
        path = token_file(self.directory / "user.token", self.grid.user())
        source = make_panda(msgspec.structs.replace(self.settings, token=path, origin="voluntary"), "panda")
        with pytest.raises(SourceDenied, match="role"):
            source.beat([GridProgress(job=GridJob(id="1"), state=JobState.RUNNING)])
        source.close()


def play(grid: PandaGrid, directory: Path) -> str:
    """Play the story on a server; gives what was said, with numbers and addresses replaced."""
    front = Front(grid.url)
    front.exchanges = []
    story = PandaStory(grid, front, directory)
    said: list[str] = []
    chapters = {
        "A job goes its way": story.a_job_goes_its_way,
        "Jobs fail": story.jobs_fail,
        "A running job is killed by its owner": story.a_running_job_is_killed,
        "A job is killed before it runs": story.a_job_is_killed_before_it_runs,
        "A try that is not the last one; a job that is not known; a user's job is given back": story.a_try_is_over,
        "A job of production is given back": story.a_production_job_is_given_back,
        "The answer with a job is lost": story.an_answer_is_lost,
        "A token expires, and is renewed": story.a_token_expires,
        "A user is no pilot": story.a_user_is_no_pilot,
    }
    try:
        for title, tell in chapters.items():
            tell()
            said += [f"== {title}", *_lines_of(front)]
    finally:
        story.source.close()
        front.close()
    return "\n".join(said) + "\n"


def _lines_of(front: Front) -> list[str]:
    exchanges, front.exchanges = front.exchanges or [], []
    numbers = {number: n for n, number in enumerate(dict.fromkeys(_numbers_of(exchanges)), start=1)}
    return [line for one in exchanges for line in _lines(one, numbers, front.url)]


def _numbers_of(exchanges: list[Exchange]) -> Iterator[str]:
    for one in exchanges:
        yield from re.findall(r'"(?:PandaID|job_id)": ?(\d+)', (one.asked + one.answered).decode("latin-1"))


def _lines(one: Exchange, numbers: dict[str, int], url: str) -> list[str]:
    asked = _plain(one.asked)
    lines = [f"{one.method} {one.path}", *([f"> {asked}"] if asked else []), f"< {one.status} {_plain(one.answered)}"]
    return [_replaced(line, numbers).replace(url, "https://panda.example.org") for line in lines]


def _replaced(line: str, numbers: dict[str, int]) -> str:
    for number, place in numbers.items():
        line = re.sub(rf'("(?:PandaID|job_id)": |job_ids=|volunteer-cloud\.){number}(?!\d)', rf"\g<1>J{place}", line)
    return line


def _plain(body: bytes) -> str:
    if found := re.search(rb'filename="([^"]+)"', body[:1000]):
        return f"file {found[1].decode()}"
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except ValueError:
        return body.decode("latin-1").strip()
