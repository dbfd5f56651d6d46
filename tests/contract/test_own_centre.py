"""A host that is its guest's centre: a job runs in a guest with no broker anywhere, whoever of the two restarts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from host_agent.errors import ImageError
from host_agent.hypervisors.contract import ImageFiles
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.own_centre.guest_job import GivenFile, GuestJob, GuestJobEnd
from host_agent.own_centre.lone_host import LoneHost
from host_agent.own_centre.own_centre import OwnCentre
from host_agent.verbs import More
from host_agent.vm import Verb
from schemas.description import Output
from schemas.jobs import Outcome
from schemas.vms import VmCreate, VmState
from tests.contract.conftest import eventually


class NoImages:
    """The driver needs none."""

    def resolve(self, image: str) -> ImageFiles:
        raise ImageError(f"there is no image {image}")


class Alone:
    """A host without a centre, and its one VM; it may be closed and opened again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.vm = ""
        self.host = self._new()

    def _new(self) -> LoneHost:
        driver = ProcessHypervisor(self.directory / "hypervisor")
        return LoneHost(self.directory, driver, NoImages(), settings={"beat_s": 0.5})

    async def open(self) -> None:
        await self.host.open()
        made = await self.host.control.create(VmCreate(name="task", cpus=1, memory_mib=64, disk_mib=1024))
        self.vm = made.vm

    async def reopen(self) -> None:
        await self.host.close()
        self.host = self._new()
        await self.host.open()

    async def start(self) -> None:
        await self.host.control.act(Verb.START, self.vm)

    async def kill_guest(self) -> None:
        await self.host.control.act(Verb.POWEROFF, self.vm)

    async def order(self, job: GuestJob, most_bytes: int = 1 << 30) -> OwnCentre:
        return await self.host.order(self.vm, job, most_bytes=most_bytes)

    def read(self, job: GuestJob, end: GuestJobEnd, name: str) -> bytes:
        output = self.host.output(job, end, name)
        assert output is not None
        return output.read_bytes() if isinstance(output, Path) else output

    async def close(self) -> None:
        await self.host.control.poweroff_all()
        await self.host.close()


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Alone]:
    made = Alone(tmp_path / "alone")
    await made.open()
    yield made
    await made.close()


async def ended(centre: OwnCentre) -> GuestJobEnd:
    await eventually(lambda: centre.end is not None)
    assert centre.end is not None
    return centre.end


def script(text: str, **more: object) -> GuestJob:
    return GuestJob(ref="local/task.1", executable="/bin/sh", arguments=("-c", text), **more)  # type: ignore[arg-type]


async def test_a_job_runs_with_its_inputs_and_leaves_its_outputs(alone: Alone, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"of the host's\n")
    large = bytes(range(256)) * 20_000
    (tmp_path / "large").write_bytes(large)
    job = script(
        "cat small; echo to stderr >&2; sha256sum < large > digest; cat large large > twice",
        inputs=(
            GivenFile(name="small", path=tmp_path / "small"),
            GivenFile(name="large", path=tmp_path / "large"),
        ),
        outputs=(Output(name="digest"), Output(name="twice")),
    )
    centre = await alone.order(job)
    await alone.start()

    end = await ended(centre)

    assert (end.outcome, end.exit_status, end.attempt) == (Outcome.DONE, 0, 1), end.cause
    assert alone.read(job, end, "stdout") == b"of the host's\n"
    assert alone.read(job, end, "stderr") == b"to stderr\n"
    assert alone.read(job, end, "digest").split()[0].decode() == hashlib.sha256(large).hexdigest()
    assert alone.read(job, end, "twice") == large * 2


async def test_one_that_fails_says_how(alone: Alone) -> None:
    centre = await alone.order(script("echo why >&2; exit 7"))
    await alone.start()

    end = await ended(centre)

    assert (end.outcome, end.exit_status) == (Outcome.FAILED, 7)
    assert "7" in end.cause


async def test_files_are_told_of_removed_and_had_early_while_the_job_runs(alone: Alone) -> None:
    job = script(
        "mkdir d; echo 0.25 > d/done; head -c 100000 /dev/zero > early; ln -s /etc/passwd out; while [ -e d/done ]; do"
        " sleep 0.1; done; echo it went",
        tells=("d/done", "early", "out", "not-there"),
        outputs=(Output(name="early"),),
    )
    centre = await alone.order(job)
    await alone.start()

    await eventually(lambda: centre.heard.told("d/done") is not None and centre.heard.told("early") is not None)
    done, early = centre.heard.told("d/done"), centre.heard.told("early")
    assert done is not None
    assert early is not None
    assert (done.content, early.size, centre.heard.told("not-there")) == (b"0.25\n", 100_000, None)
    assert centre.heard.told("out") is None, "a link leads out of the job's directory"
    centre.heard.want(early)
    await eventually(lambda: centre.heard.early("early") is not None)
    entry = centre.heard.early("early")
    assert entry is not None
    content = alone.host.content(job, entry)
    assert isinstance(content, Path)
    assert content.read_bytes() == bytes(100_000)
    centre.heard.remove(done)

    end = await ended(centre)
    assert (end.outcome, alone.read(job, end, "stdout")) == (Outcome.DONE, b"it went\n")


async def test_a_job_is_handed_files_while_it_runs_and_keeps_what_it_has(alone: Alone) -> None:
    job = script("echo mine > there; while [ ! -e d/news ]; do sleep 0.1; done; cat there d/news")
    centre = await alone.order(job)
    centre.heard.hand("there", b"not mine\n")
    centre.heard.hand("d/news", b"from the centre\n")
    centre.heard.hand("../../out", b"x")
    await alone.start()

    end = await ended(centre)

    assert end.outcome is Outcome.DONE
    assert alone.read(job, end, "stdout").splitlines()[-1] == b"from the centre"
    assert not list(alone.directory.rglob("out"))


async def test_the_job_goes_on_where_the_host_agent_is_another_one(alone: Alone) -> None:
    job = script("sleep 3; echo once")
    centre = await alone.order(job)
    await alone.start()
    await eventually(lambda: centre.holding is not None)

    await alone.reopen()
    centre = await alone.order(job)

    end = await ended(centre)
    assert (end.outcome, end.attempt, alone.read(job, end, "stdout")) == (Outcome.DONE, 1, b"once\n")


async def test_a_job_whose_guest_went_down_is_done_again(alone: Alone) -> None:
    job = script("[ -e /dev/shm/vc-none ]; sleep 2; echo ran")
    centre = await alone.order(job)
    await alone.start()
    await eventually(lambda: centre.holding is not None)

    await alone.kill_guest()
    await alone.start()

    end = await ended(centre)
    assert (end.outcome, end.attempt) == (Outcome.DONE, 2)


async def test_a_pause_costs_the_job_nothing(alone: Alone) -> None:
    job = script("for i in 1 2 3 4 5 6; do sleep 0.3; echo $i; done")
    centre = await alone.order(job)
    await alone.start()
    await eventually(lambda: centre.holding is not None)

    await alone.host.control.act(Verb.PAUSE, alone.vm, More())
    await asyncio.sleep(0.5)  # it stands still for a while
    await alone.host.control.act(Verb.RESUME, alone.vm, More())

    end = await ended(centre)
    assert (end.outcome, end.attempt) == (Outcome.DONE, 1)
    assert alone.read(job, end, "stdout") == b"1\n2\n3\n4\n5\n6\n"


async def test_what_a_guest_sends_is_bounded(alone: Alone) -> None:
    job = script("head -c 3000000 /dev/zero > big", outputs=(Output(name="big"),))
    centre = await alone.order(job, most_bytes=1_000_000)
    await alone.start()

    end = await ended(centre)

    assert end.outcome is Outcome.FAILED
    assert "3000000 bytes" in end.cause


async def test_a_job_that_has_ended_is_not_run_again(alone: Alone) -> None:
    job = script("echo once")
    centre = await alone.order(job)
    await alone.start()
    before = await ended(centre)

    await alone.reopen()
    centre = await alone.order(job)

    assert centre.end == before
    assert await alone.host.statuses.state(alone.vm) is VmState.RUNNING
