"""``volcloud vm shell`` in a real terminal, on a real system with a VM of the process driver."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.system.person import Person, person
from tests.system.running import System, running, until
from tests.system.test_execs import VOLCLOUD, environment, vm


@pytest.fixture(scope="module")
def cloud() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "1") as system:
        yield system


def at(cloud: System, *words: str) -> AbstractContextManager[Person]:
    return person([*VOLCLOUD, "vm", "shell", *words], environment(cloud), rows=50, columns=132)


def alive(mark: str) -> bool:
    return subprocess.run(["pgrep", "-fx", f"sleep {mark}"], capture_output=True, check=False).returncode == 0


def test_a_shell_follows_the_size_of_the_terminal_and_gives_its_exit_status(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("echo size $(stty size)\r")
        somebody.sees("size 50 132")
        somebody.resize(20, 77)
        until(lambda: (somebody.type("echo size $(stty size)\r"), "size 20 77" in somebody.said)[1], "it has followed")
        somebody.type("exit 3\r")

        assert somebody.ends() == 3
        assert somebody.has_modes_back


def test_ctrl_c_ends_what_runs_in_the_shell_and_not_the_shell(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("echo pid=$$; sleep 4712.1\r")
        until(lambda: alive("4712.1"), "it sleeps")
        somebody.type("\x03")
        until(lambda: not alive("4712.1"), "it was interrupted")
        somebody.type("echo still=$$\r")
        somebody.sees("still=")
        pid = somebody.said.split("pid=")[-1].split()[0]
        somebody.sees(f"still={pid}")
        somebody.type("\x04")

        assert somebody.ends() in (0, 130)


def test_a_program_that_redraws_the_screen_does_so(cloud: System) -> None:
    with at(cloud, "worker-1", "top", "-d", "0.2") as somebody:
        somebody.sees("load average")
        seen = somebody.said.count("load average")
        until(lambda: somebody.said.count("load average") > seen + 1 or somebody.said.count("\x1b[H") > 2, "it redraws")
        somebody.type("q")

        assert somebody.ends() == 0


def test_a_person_leaves_and_nothing_is_left(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("setsid sleep 4712.2 &\rsleep 4712.2\r")
        until(lambda: alive("4712.2"), "it sleeps")
        somebody.type("\r~.")

        assert somebody.ends() == 125
        assert "left by ~." in somebody.said
        assert somebody.has_modes_back
        until(lambda: not alive("4712.2"), "nothing is left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_shell_that_is_told_to_end_puts_the_terminal_back(cloud: System, number: signal.Signals) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("sleep 4712.3\r")
        until(lambda: alive("4712.3"), "it sleeps")
        assert not somebody.has_modes_back
        os.kill(child_of(somebody.process.pid), number)

        assert somebody.ends() == 128 + number
        assert somebody.has_modes_back
        until(lambda: not alive("4712.3"), "nothing is left")


def test_a_shell_whose_console_is_killed_leaves_nothing_in_the_vm(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("sleep 4712.4 & sleep 4712.4\r")
        until(lambda: alive("4712.4"), "it sleeps")
        os.kill(child_of(somebody.process.pid), signal.SIGKILL)
        somebody.ends()

        until(lambda: not alive("4712.4"), "nothing is left", 90)


def test_a_shell_wants_a_terminal(cloud: System) -> None:
    done = vm(cloud, "shell", "worker-1")

    assert done.returncode == 2
    assert b"no terminal" in done.stderr
    assert b"vm run worker-1" in done.stderr


def child_of(pid: int) -> int:
    """Give the only child of a process: that of ``setsid``, if it has forked, or it is the program itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children and b"setsid" in Path(f"/proc/{pid}/cmdline").read_bytes() else pid
