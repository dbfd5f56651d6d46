"""Starters that outlive their agent, frozen or stubborn: whoever comes next ends them, and what they have started."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.vm_mark import MARK
from guest_agent import predecessor
from guest_agent.process_tree import descendants
from tests.broker.polling import until
from tests.unit.guests import Guest, content_of
from tests.unit.test_container import processes_of
from tests.unit.test_job_loop import running

ROOT = Path(__file__).parents[2]
#: An agent with one job at work, which has a child in a session of its own.
AGENT = """
import asyncio, sys
from pathlib import Path
from tests.unit.guests import Guest
asyncio.run(Guest(Path(sys.argv[1])).run("/bin/sh", "-c", "setsid sleep 600 & touch begun; sleep 600"))
"""
#: What holds a slot and does not end when it is asked to, with a child.
STUBBORN = """
import fcntl, os, subprocess, sys, time
os.chdir(sys.argv[2])
fcntl.flock(os.open(".", os.O_RDONLY), fcntl.LOCK_EX)
subprocess.Popen(["sleep", "600"])
open("../begun", "w").close()
time.sleep(600)
"""


async def frozen(directory: Path) -> list[int]:
    """Leave a slot as a paused VM does whose agent dies: give the processes that are stopped where they were."""
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", AGENT, str(directory), cwd=ROOT)
    await until(lambda: [*directory.glob("jobs/slot-0/work/*/begun")] != [], 30)
    pids = [*descendants(agent.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    agent.kill()
    await agent.wait()
    return pids


async def stubborn(name: str, directory: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", STUBBORN, name, str(directory))


@contextmanager
def held(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def test_a_frozen_starter_is_ended_at_once_with_all_that_it_had_started(tmp_path: Path) -> None:
    left = await frozen(tmp_path)
    after = Guest(tmp_path)
    try:
        async with asyncio.timeout(predecessor.PATIENCE_S):
            completion = await after.run("/bin/echo", "fine", job="site-a/k.1")
    finally:
        after.close()

    assert content_of(completion, "stdout") == b"fine\n"
    assert len(left) >= 3
    await until(lambda: processes_of(tmp_path) == [])


async def test_a_starter_that_does_not_end_by_itself_is_killed_after_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessor, "PATIENCE_S", 0.1)
    work = tmp_path / "work"
    work.mkdir()
    one = await stubborn("guest_agent.starter", work)
    await until((tmp_path / "begun").exists)
    child = next(iter(descendants(one.pid)))

    await predecessor.end(work)

    assert await one.wait() == -signal.SIGKILL
    await until(lambda: child not in descendants(os.getppid()))


async def test_what_is_no_starter_and_what_is_no_slot_of_ours_is_left_alone(tmp_path: Path) -> None:
    for name in ("ours", "other"):
        (tmp_path / name / "work").mkdir(parents=True)
    stranger = await stubborn("no", tmp_path / "ours" / "work")
    starter = await stubborn("guest_agent.starter", tmp_path / "other" / "work")
    await until(lambda: all((tmp_path / name / "begun").exists() for name in ("ours", "other")))

    found = [predecessor.holders(tmp_path / name / "work") for name in ("ours", "other")]
    for process in (stranger, starter):
        for pid in (*descendants(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)
        await process.wait()

    assert found == [[], [starter.pid]]


async def test_a_slot_that_waits_for_one_before_it_asks_for_nothing_while_its_agent_speaks(tmp_path: Path) -> None:
    work = Guest(tmp_path).slot_directory.work
    with held(work) as lock:
        async with running(tmp_path) as guest:
            guest.loop.ask_all()
            await until(lambda: guest.up.beats > 0)
            asked = len(guest.up.requests)
            fcntl.flock(lock, fcntl.LOCK_UN)
            await until(lambda: len(guest.up.requests) > 0)

    assert asked == 0


async def test_all_that_an_agent_starts_bears_the_mark_of_its_vm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, "/somewhere/vm-a")
    guest = Guest(tmp_path)
    try:
        completion = await guest.run("env", environment={MARK: "/somewhere/else"})
        starters = [Path(f"/proc/{pid}/environ").read_bytes() for pid in predecessor.holders(guest.slot_directory.work)]
    finally:
        guest.close()

    mark = f"{MARK}=/somewhere/vm-a".encode()
    assert mark in content_of(completion, "stdout").splitlines()
    assert starters
    assert all(mark in environment.split(b"\0") for environment in starters)
