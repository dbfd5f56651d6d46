"""One attempt of a job: every way to end, with a cause that a person can read."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.errors import TransferFailed
from guest_agent.accounts import _owner_of, _processes
from guest_agent.attempt import Attempt, Room, remove_left_behind
from guest_agent.cache import InputCache
from guest_agent.payload import Account
from schemas.description import Input, Output
from schemas.errors import ErrorCode
from schemas.jobs import JobAssign, JobCompletion, Outcome, OutputEntry, Phase
from tests.broker.polling import until


class Guest:
    """A guest without a broker: inputs by content, a store that may be full."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.inputs: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.fetches: list[str] = []
        self.full_for = 0
        self.room = Room(
            directory=directory / "jobs",
            cache=InputCache(directory / "cache", self.fetch),
            boot_id="boot",
            account=lambda slot: None,
            store_patience_s=5.0,
        )

    def attempt(self, *command: str, **fields: Any) -> Attempt:
        fields = {"attempt": 1, "slot": 0, **fields}
        assign = JobAssign(job="site-a/j.1", executable=command[0], arguments=list(command[1:]), **fields)
        return Attempt(assign, 0, self.room, self.store)

    def input(self, name: str, content: bytes, **fields: Any) -> Input:
        sha256 = hashlib.sha256(content).hexdigest()
        self.inputs[sha256] = content
        return Input(name=name, sha256=sha256, size=len(content), **fields)

    async def fetch(self, sha256: str, target: Path, partial: Path) -> None:
        self.fetches.append(sha256)
        await asyncio.sleep(0)
        if sha256 not in self.inputs:
            raise TransferFailed(ErrorCode.NOT_FOUND, f"input {sha256} is not in the store")
        target.write_bytes(self.inputs[sha256])

    async def store(self, path: Path, name: str) -> OutputEntry:
        if self.full_for:
            self.full_for -= 1
            raise TransferFailed(ErrorCode.STORE, "no space left on device")
        self.stored[name] = path.read_bytes()
        return OutputEntry(name=name, size=path.stat().st_size, sha256="0" * 64)

    async def run(self, *command: str, **fields: Any) -> JobCompletion:
        attempt = self.attempt(*command, **fields)
        completion = await attempt.run()
        attempt.discard()
        return completion


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def content_of(completion: JobCompletion, name: str) -> bytes:
    return next(entry.content or b"" for entry in completion.outputs if entry.name == name)


async def test_a_job_runs_with_its_inputs_and_its_output_comes_back(guest: Guest) -> None:
    completion = await guest.run(
        "sh",
        "-c",
        "cat a b > out; echo said",
        inputs=[guest.input("a", b"A"), Input(name="b", content=b"B")],
        outputs=[Output(name="out")],
    )

    assert completion.outcome == Outcome.DONE
    assert (content_of(completion, "out"), content_of(completion, "stdout")) == (b"AB", b"said\n")
    assert [path.name for path in (guest.directory / "jobs").iterdir()] == ["slot-0"]


async def test_jobs_at_once_share_one_fetch_of_the_same_input(guest: Guest) -> None:
    item = guest.input("a", b"A" * 100)

    ended = await asyncio.gather(*(guest.run("cat", "a", inputs=[item], attempt=n) for n in (1, 2, 3)))

    assert len(guest.fetches) == 1
    assert [content_of(completion, "stdout") for completion in ended] == [b"A" * 100] * 3


async def test_an_input_that_is_an_executable_runs(guest: Guest) -> None:
    completion = await guest.run("run.sh", inputs=[guest.input("run.sh", b"#!/bin/sh\necho ran\n", executable=True)])

    assert content_of(completion, "stdout") == b"ran\n"


async def test_a_payload_that_fails_is_told_with_its_status_and_what_it_said(guest: Guest) -> None:
    completion = await guest.run("sh", "-c", "echo broken >&2; exit 3")

    assert (completion.outcome, completion.exit_status) == (Outcome.FAILED, 3)
    assert "payload ended with 3" in completion.cause
    assert content_of(completion, "stderr") == b"broken\n"


@pytest.mark.parametrize(
    ("command", "fields", "said"),
    [
        (["no-such-thing"], {}, "executable = 'no-such-thing': there is no such program"),
        (["true"], {"outputs": [Output(name="result")]}, "outputs: 'result' was not made by the job"),
        (["ln", "-s", "/etc/passwd", "result"], {"outputs": [Output(name="result")]}, "is a link out of"),
        (["sleep", "60"], {"wall_time_s": 0.2}, "ran longer than wall_time_s = 0.2"),
        (["true"], {"inputs": [Input(name="a", sha256="1" * 64)]}, "is not in the store"),
    ],
)
async def test_every_failure_names_its_cause(
    guest: Guest, command: list[str], fields: dict[str, Any], said: str
) -> None:
    completion = await guest.run(*command, **fields)

    assert completion.outcome == Outcome.FAILED
    assert said in completion.cause


async def test_an_optional_output_may_be_missing(guest: Guest) -> None:
    completion = await guest.run("true", outputs=[Output(name="extra", optional=True)])

    assert completion.outcome == Outcome.DONE


@pytest.mark.parametrize(("status", "outcome"), [(0, Outcome.DONE), (1, Outcome.FAILED)])
async def test_the_validation_script_decides(guest: Guest, status: int, outcome: Outcome) -> None:
    script = guest.input("check.sh", f"#!/bin/sh\ntest -f out && exit {status}\n".encode())

    completion = await guest.run("touch", "out", inputs=[script], validation="check.sh")

    assert completion.outcome == outcome


async def test_large_outputs_go_to_the_store_and_small_ones_ride_along(guest: Guest) -> None:
    completion = await guest.run(
        "sh",
        "-c",
        "head -c 100000 /dev/zero > big; echo small > small",
        outputs=[Output(name="big"), Output(name="small")],
    )

    assert set(guest.stored) == {"big"}
    assert content_of(completion, "small") == b"small\n"


async def test_a_full_store_is_told_as_trouble_and_the_output_kept_until_there_is_room(guest: Guest) -> None:
    guest.full_for = 2
    attempt = guest.attempt("sh", "-c", "head -c 100000 /dev/zero > big", outputs=[Output(name="big")])

    running = asyncio.ensure_future(attempt.run())
    await until(lambda: "no space left" in attempt.holding().trouble)
    completion = await running

    assert completion.outcome == Outcome.DONE
    assert attempt.holding().trouble == ""
    assert len(guest.stored["big"]) == 100_000


async def test_a_stop_ends_a_running_payload_as_cancelled(guest: Guest) -> None:
    attempt = guest.attempt("sh", "-c", "touch begun; sleep 600")
    running = asyncio.ensure_future(attempt.run())
    await until(lambda: attempt.phase == Phase.RUNNING)

    attempt.stop("cancelled by console-a")
    completion = await asyncio.wait_for(running, 10)

    assert (completion.outcome, completion.cause) == (Outcome.CANCELLED, "cancelled by console-a")


async def test_a_stop_that_came_first_wins(guest: Guest) -> None:
    attempt = guest.attempt("touch", "/tmp/should-not-be")
    attempt.stop("cancelled")

    completion = await attempt.run()

    assert (completion.outcome, completion.exit_status) == (Outcome.CANCELLED, -1)


async def test_an_attempt_that_a_dead_agent_had_begun_is_reported_lost_and_its_payload_ended(guest: Guest) -> None:
    before = guest.attempt("sleep", "600")
    running = asyncio.ensure_future(before.run())
    await until(lambda: before._note.exists())

    after = guest.attempt("sleep", "600").bury()

    assert after is not None
    assert after.outcome == Outcome.LOST
    assert (await asyncio.wait_for(running, 10)).exit_status == 137


async def test_an_attempt_that_nobody_has_begun_is_not_lost(guest: Guest) -> None:
    assert guest.attempt("true").bury() is None


async def test_a_payload_sees_its_own_environment_and_nothing_of_the_agents(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_SECRET", "hidden")

    completion = await guest.run("env", environment={"VOLCLOUD_ARRAY_INDEX": "3"})

    assert b"VOLCLOUD_ARRAY_INDEX=3" in content_of(completion, "stdout")
    assert b"hidden" not in content_of(completion, "stdout")


@pytest.mark.parametrize("name", ["x" * 300, "/" + "y" * 300])
async def test_a_name_that_no_file_can_have_ends_the_attempt_and_not_the_agent(guest: Guest, name: str) -> None:
    completion = await guest.run(name)

    assert completion.outcome in (Outcome.FAILED, Outcome.LOST)
    assert completion.cause


async def test_a_full_disk_ends_the_attempt_as_lost_and_leaves_no_payload(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("guest_agent.attempt.overwrite", full)
    attempt = guest.attempt("sleep", "600")

    completion = await asyncio.wait_for(attempt.run(), 10)

    assert completion.outcome == Outcome.LOST
    assert "No space left on device" in completion.cause
    payload = attempt._payload
    assert payload is not None
    await until(lambda: payload._exited.done())


async def test_a_program_of_the_machine_is_run_as_it_is(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[Path] = []
    monkeypatch.setattr(Path, "chmod", lambda self, mode: changed.append(self))

    completion = await guest.run("/bin/true")

    assert completion.outcome == Outcome.DONE
    assert Path("/bin/true") not in changed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a payload another account")
async def test_a_process_that_left_its_group_does_not_outlive_the_attempt(guest: Guest) -> None:
    account = Account(64017, 64017)
    guest.room = msgspec.structs.replace(guest.room, account=lambda slot: account)
    for directory in (guest.directory, *guest.directory.parents):
        directory.chmod(directory.stat().st_mode | 0o111)

    completion = await guest.run("/bin/sh", "-c", "setsid sleep 600 < /dev/null > /dev/null 2>&1 & sleep 0.2")

    assert completion.outcome == Outcome.DONE, completion.cause
    assert [pid for pid in _processes() if _owner_of(pid) == account.uid] == []


async def test_what_answered_attempts_left_behind_is_removed_and_nothing_else(guest: Guest) -> None:
    jobs = guest.directory / "jobs"
    old, begun = guest.attempt("true", attempt=1), guest.attempt("true", attempt=2)
    for attempt in (old, begun):
        (jobs / f"site-a_j.1.{attempt.assign.attempt}" / "deep").mkdir(parents=True)
        (jobs / f"site-a_j.1.{attempt.assign.attempt}.streams").mkdir()
    (jobs / "slot-0").write_text("a note")

    remove_left_behind(jobs, [begun.assign])

    assert {path.name for path in jobs.iterdir()} == {"site-a_j.1.2", "site-a_j.1.2.streams", "slot-0"}
