"""One directory, one agent: the lock, who is named as its holder, and that it dies with him."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from host_agent.errors import DirectoryTaken
from host_agent.lock import DirectoryLock

#: Takes the lock of a directory, says so, and starts a child that outlives it.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from host_agent.lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
lock.take()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_directory_that_is_in_use_is_refused_and_the_process_that_holds_it_is_named(tmp_path: Path) -> None:
    DirectoryLock(tmp_path).take()
    held = DirectoryLock(tmp_path / "other")
    held.take()

    with pytest.raises(DirectoryTaken, match=rf"other is in use by another host_agent, pid {os.getpid()}: end that"):
        DirectoryLock(tmp_path / "other").take()


def test_a_lock_that_was_released_can_be_taken_and_taking_it_twice_is_nothing(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    first.take()
    first.take()
    first.release()
    first.release()

    second.take()


def test_the_lock_dies_with_a_killed_agent_though_a_child_of_it_lives_on(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(DirectoryTaken, match=f"pid {holder.pid}"):
            DirectoryLock(tmp_path).take()
        holder.kill()
        holder.wait(20)

        DirectoryLock(tmp_path).take()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.wait(20)


def test_nobody_else_on_the_machine_can_hold_the_lock(tmp_path: Path) -> None:
    DirectoryLock(tmp_path).take()

    assert (tmp_path / "lock").stat().st_mode & 0o077 == 0


def test_a_directory_that_is_another_one_than_was_locked_is_noticed(tmp_path: Path) -> None:
    place = tmp_path / "host"
    lock = DirectoryLock(place)
    lock.take()
    lock.check()

    place.rename(tmp_path / "elsewhere")
    with pytest.raises(DirectoryTaken, match=f"{place} is another directory than it was: a disk was mounted over it"):
        lock.check()
    DirectoryLock(place).take()
    with pytest.raises(DirectoryTaken, match="another directory"):
        lock.check()
