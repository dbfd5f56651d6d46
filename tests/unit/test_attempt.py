"""One attempt of a job: every way to end, with a cause that a person can read."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from guest_agent.accounts import Account
from guest_agent.leftovers import clear, find_begun, set_aside
from schemas.codec import encode
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
    assert [path.name for path in guest.slot_directory.work.iterdir()] == []


async def test_jobs_at_once_share_one_fetch_of_the_same_input(guest: Guest) -> None:
    item = guest.input("a", b"A" * 100)

    async def get() -> bytes:
        async with guest.resources.cache.lend(item.sha256 or "") as path:
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
    script = "id -u; ls -A /tmp /var/tmp /dev/shm; touch /tmp/a /dev/shm/a; set -- /proc/[0-9]*; echo $#"
    first = await rooted.run("/bin/sh", "-c", script, inputs=[rooted.input("a", b"A")])
    second = await rooted.run("/bin/sh", "-c", script, attempt=2)

    assert first.outcome == Outcome.DONE, first.cause
    assert content_of(first, "stdout") == content_of(second, "stdout")
    said = content_of(first, "stdout").split()
    assert said[0] == b"64017"
    assert int(said[-1]) < 10


async def test_a_payload_is_asked_to_end_before_it_is_made_to_and_its_grace_is_its_own_choice(guest: Guest) -> None:
    tidy = "trap 'echo tidied; exit 3' TERM; while :; do sleep 0.05; done"
    stubborn = "trap '' TERM; while :; do sleep 0.05; done"

    asked = await guest.run("sh", "-c", tidy, wall_time_s=0.5, grace_s=20.0)
    began = asyncio.get_running_loop().time()
    made = await guest.run("sh", "-c", stubborn, wall_time_s=0.5, grace_s=0.5, attempt=2)

    assert content_of(asked, "stdout") == b"tidied\n"
    assert asked.exit_status == 3
    assert "ran longer than wall_time_s = 0.5" in asked.cause
    assert made.exit_status == 137
    assert asyncio.get_running_loop().time() - began < 15


async def test_a_cancelled_payload_has_its_grace_too(guest: Guest) -> None:
    script = "trap 'echo tidied; exit 0' TERM; echo > begun; while :; do sleep 0.05; done"
    attempt = guest.attempt("sh", "-c", script, grace_s=20.0)
    running = asyncio.ensure_future(attempt.run())
    await until((guest.slot_directory.work / "site-a_j.1.1" / "begun").exists)

    attempt.stop("enough")
    completion = await asyncio.wait_for(running, 15)

    assert (completion.outcome, completion.cause) == (Outcome.CANCELLED, "enough")
    assert content_of(completion, "stdout") == b"tidied\n"


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("exit 255", 255, "ended with exit status 255"),
        ("exit 137", 137, "ended with exit status 137"),
        ("kill -9 $$", 137, "was ended by signal 9 (SIGKILL)"),
        ("kill -SEGV $$", 139, "was ended by signal 11 (SIGSEGV)"),
    ],
)
async def test_an_exit_is_an_exit_and_a_signal_a_signal(guest: Guest, script: str, status: int, said: str) -> None:
    completion = await guest.run("sh", "-c", script)

    assert completion.exit_status == status
    assert said in completion.cause
    assert not re.search("limit|out of memory", completion.cause)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"#!/bin/sh\r\necho\r\n", "ends with a carriage return"),
        (b"#!/usr/bin/env\r\n", "'/usr/bin/env' is not found"),
        (b"#!/opt/no/python3\n", "its interpreter '/opt/no/python3' is not on this VM"),
        (b"echo no first line\n", "a script begins with a line such as #!/bin/sh"),
        (b"", "it is no program of this machine"),
    ],
)
async def test_a_script_that_cannot_run_is_told_what_it_lacks(guest: Guest, content: bytes, said: str) -> None:
    completion = await guest.run("run.sh", inputs=[guest.input("run.sh", content, executable=True)])

    assert completion.outcome == Outcome.FAILED
    assert said in completion.cause


async def test_outputs_may_be_patterns_links_inside_and_names_of_the_real_world(guest: Guest) -> None:
    script = "for n in 1 2 3; do echo $n > $n.root; done; echo x > 'injections_10^{6}_test.hdf5'; ln -s 1.root link"
    names = ["*.root", "injections_10^{6}_test.hdf5", "link"]

    completion = await guest.run("sh", "-c", script, outputs=[Output(name=name) for name in names])

    assert completion.outcome == Outcome.DONE, completion.cause
    assert {entry.name for entry in completion.outputs} - {"stdout", "stderr"} == {
        *("1.root", "2.root", "3.root", "injections_10^{6}_test.hdf5", "link")
    }
    assert content_of(completion, "link") == b"1\n"


async def test_a_pattern_that_matches_nothing_or_what_is_printed_is_told(guest: Guest) -> None:
    nothing = await guest.run("true", outputs=[Output(name="*.root")])
    printed = await guest.run("touch", "stdout", outputs=[Output(name="std*")], attempt=2)

    assert "'*.root' matches no file that the job made" in nothing.cause
    assert "'stdout' is the name under which what the job prints is kept" in printed.cause


async def test_a_cancel_is_heard_while_a_failed_payloads_streams_wait_for_the_store(guest: Guest) -> None:
    guest.full_for = 1 << 30
    attempt = guest.attempt("sh", "-c", "head -c 100000 /dev/zero; exit 1")
    running = asyncio.ensure_future(attempt.run())
    await until(lambda: attempt.trouble != "")

    attempt.stop("enough")
    completion = await asyncio.wait_for(running, 10)

    assert (completion.outcome, completion.cause) == (Outcome.CANCELLED, "enough")


async def test_inputs_that_stand_in_each_others_way_fail_the_job_and_cost_no_machine(guest: Guest) -> None:
    completion = await guest.run("true", inputs=[Input(name="a", content=b"A"), Input(name="a/b", content=b"B")])

    assert completion.outcome == Outcome.FAILED


async def test_a_job_that_nested_three_thousand_directories_is_removed_and_the_next_runs(guest: Guest) -> None:
    script = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"

    await guest.run("/usr/bin/python3", "-c", script)
    completion = await guest.run("true", attempt=2)

    assert completion.outcome == Outcome.DONE
    assert list(guest.slot_directory.work.iterdir()) == []


async def test_leftovers_that_cannot_be_removed_at_once_hold_up_no_start(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "slot-0" / "work").mkdir(parents=True)
    deep = os.open(tmp_path / "jobs" / "slot-0" / "work", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)

    assert find_begun(tmp_path / "jobs", tmp_path / "begun", [], is_new_boot=False) == {"d"}
    set_aside(tmp_path / "jobs", tmp_path / "aside", [])
    clear(tmp_path / "aside")

    assert list((tmp_path / "aside").iterdir()) == []
    assert list((tmp_path / "jobs" / "slot-0" / "work").iterdir()) == []


async def test_the_cache_lets_go_what_was_used_longest_ago_and_keeps_what_is_lent(guest: Guest) -> None:
    cache, items = guest.resources.cache, [guest.input(name, name.encode()) for name in "abc"]
    for number, item in enumerate(items):
        async with cache.lend(item.sha256 or "") as path:
            os.utime(path, (number, number))

    async with cache.lend(items[0].sha256 or ""):
        cache.make_room(1 << 62)
        kept = [path.name for path in (guest.directory / "cache").iterdir()]
    cache.make_room(1 << 62)

    assert kept == [items[0].sha256]
    assert list((guest.directory / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "name", [b"donn\xe9es.root", b"two\nlines.root", b"\x1b[2J.root", b"d/" * 500 + b"x" * 100 + b".root"]
)
async def test_a_match_whose_name_nobody_can_read_fails_its_job_and_not_the_agent(guest: Guest, name: bytes) -> None:
    script = f"import os; n = {name!r}; os.makedirs(os.path.dirname(n) or b'.', exist_ok=True); open(n, 'w').close()"
    pattern = "/".join(["*"] * name.count(b"/") + ["*.root"])

    completion = await guest.run("/usr/bin/python3", "-c", script, outputs=[Output(name=pattern)])

    assert completion.outcome == Outcome.FAILED
    assert "a file matches whose name is no readable text" in completion.cause
    assert completion.cause.isprintable()
    assert encode(completion)


async def test_what_nobody_foresaw_ends_one_attempt_as_lost(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guest_agent.outputs.find", lambda *_: {}["what"])

    completion = await guest.run("true")

    assert completion.outcome == Outcome.LOST
    assert "did not foresee this: KeyError('what')" in completion.cause


async def test_slots_that_are_short_of_room_at_once_make_it_together(guest: Guest) -> None:
    cache = guest.resources.cache
    for _ in range(20):
        for number in range(50):
            (guest.directory / "cache" / f"{number:064}").write_bytes(b"x")

        await asyncio.gather(*(asyncio.to_thread(cache.make_room, 1 << 62) for _ in range(4)))

        assert list((guest.directory / "cache").iterdir()) == []


async def test_what_a_payload_calls_its_own_files_says_nothing_of_attempts(tmp_path: Path) -> None:
    for place in ("work", "tmp", "var-tmp"):
        (tmp_path / "jobs" / "slot-0" / place / f"site-a_{place}.1.1").mkdir(parents=True)

    assert find_begun(tmp_path / "jobs", tmp_path / "begun", [], is_new_boot=False) == {"site-a_work.1.1"}


async def test_a_job_that_may_have_more_than_there_is_does_not_empty_the_cache(guest: Guest) -> None:
    """A job that asks for nothing may have its slot's share of the whole disk, which is never free."""
    item = guest.input("kept", b"kept")
    async with guest.resources.cache.lend(item.sha256 or ""):
        pass

    completion = await guest.run("true", disk_mib=1 << 30)

    assert completion.outcome == Outcome.DONE, completion.cause
    assert [path.name for path in (guest.directory / "cache").iterdir()] == [item.sha256]


async def test_a_pattern_that_matches_more_than_can_be_named_fails_its_job_in_a_sentence(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guest_agent.outputs.MOST_FILES", 50)
    make = "i=0; while [ $i -lt 30 ]; do i=$((i+1)); : > $i.a; : > $i.b; done"

    at_once = await guest.run("sh", "-c", make, outputs=[Output(name="*")])
    together = await guest.run("sh", "-c", make, outputs=[Output(name="*.a"), Output(name="*.b")], attempt=2)

    assert (at_once.outcome, together.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert "more than 50 files match '*', and no completion can name them" in at_once.cause
    assert "more than 50 files match '*.b' and those before it" in together.cause
