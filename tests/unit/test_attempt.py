"""One attempt of a job: every way to end, with a cause that a person can read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from guest_agent.payload import Account
from schemas.description import Input, Output
from schemas.jobs import Outcome, Phase
from tests.broker.polling import until
from tests.unit.guests import Guest, content_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a payload another account")


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Guest]:
    made = Guest(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def rooted(tmp_path: Path) -> AsyncIterator[Guest]:
    """A guest whose payloads have an account of their own."""
    made = Guest(tmp_path, Account(64017, 64017))
    yield made
    made.close()


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
    assert [path.name for path in guest.quarters.work.iterdir()] == []


async def test_jobs_at_once_share_one_fetch_of_the_same_input(guest: Guest) -> None:
    item = guest.input("a", b"A" * 100)

    async def get() -> bytes:
        async with guest.room.cache.lend(item.sha256 or "") as path:
            return path.read_bytes()

    got = await asyncio.gather(get(), get(), get())

    assert len(guest.fetches) == 1
    assert got == [b"A" * 100] * 3


async def test_an_input_that_is_an_executable_runs(guest: Guest) -> None:
    completion = await guest.run("run.sh", inputs=[guest.input("run.sh", b"#!/bin/sh\necho ran\n", executable=True)])

    assert content_of(completion, "stdout") == b"ran\n"


async def test_a_payload_that_fails_is_told_with_its_status_and_what_it_said(guest: Guest) -> None:
    completion = await guest.run("sh", "-c", "echo broken >&2; exit 3")

    assert (completion.outcome, completion.exit_status) == (Outcome.FAILED, 3)
    assert "the payload ended with exit status 3" in completion.cause
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


@as_root
async def test_a_payload_has_an_account_a_tmp_and_processes_of_its_own(rooted: Guest) -> None:
    script = (
        "id -u; ls /tmp /var/tmp /dev/shm; touch /tmp/a /dev/shm/a; echo $$ $HOME $TMPDIR; ls /proc | grep -c '^[0-9]'"
    )
    first = await rooted.run("/bin/sh", "-c", script, inputs=[rooted.input("a", b"A")])
    second = await rooted.run("/bin/sh", "-c", script, attempt=2)

    print(first.cause, content_of(first, "stderr"), rooted.container.kind)
    said = content_of(first, "stdout").decode().split()
    print(said, content_of(second, "stdout").decode().split())
    assert first.outcome == Outcome.DONE, first.cause
    assert said[0] == "64017"
