"""A run of the tests leaves nothing, whichever of its processes is killed, and hears signals that were ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import reaper

#: A test that leaves its parent, its session, its environment and a file behind, tells where, and then takes long.
STRAY = """
import os, pathlib, subprocess, sys, tempfile, time

DAEMON = '''
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
'''

def test_that_leaves_a_daemon():
    place = pathlib.Path(tempfile.mkdtemp())
    subprocess.run([sys.executable, "-c", DAEMON, str(place / "pid")], env={}, check=True)
    while not (place / "pid").exists() or not (place / "pid").read_text():
        time.sleep(0.01)
    with open(os.environ["TOLD"] + ".new", "w") as told:
        told.write(f"{(place / 'pid').read_text()} {os.getpid()} {os.getppid()} {place}")
    os.rename(os.environ["TOLD"] + ".new", os.environ["TOLD"])
    time.sleep(float(os.environ["TAKES_S"]))
"""
HEARS = """
import signal

def test_that_sigint_is_heard():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
"""


class Run:
    """A pytest of its own in a directory with this project's reaper."""

    def __init__(self, directory: Path, test: str, *, takes_s: float = 600.0, **options: object) -> None:
        self.told = directory / "told"
        (directory / "tests").mkdir()
        for name in ("__init__.py", "reaper.py", "conftest.py"):
            (directory / "tests" / name).write_bytes((Path(__file__).parents[1] / name).read_bytes())
        (directory / "tests" / "test_one.py").write_text(test)
        (directory / "pytest.ini").write_text("[pytest]\nmarkers = service\n")
        environment = {k: v for k, v in os.environ.items() if k != reaper.TREE}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
            cwd=directory,
            env=environment | {"TOLD": str(self.told), "TAKES_S": str(takes_s)},
            stdout=subprocess.DEVNULL,
            **options,  # type: ignore[call-overload]
        )

    def places(self) -> tuple[int, int, int, Path]:
        """The daemon, the pytest that tests, the reaper, and the daemon's directory."""
        until(self.told.exists)
        daemon, tests, above, place = self.told.read_text().split()
        return int(daemon), int(tests), int(above), Path(place)


def until(holds: Callable[[], object], patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    made: list[Run] = []
    yield made
    for run in made:
        run.process.kill()
        run.process.wait()


@pytest.mark.parametrize("victim", ["who waits", "the tests", "the reaper"])
def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path, runs: list[Run], victim: str) -> None:
    run = Run(tmp_path, STRAY)
    runs.append(run)
    daemon, tests, above, place = run.places()

    os.kill({"who waits": run.process.pid, "the tests": tests, "the reaper": above}[victim], signal.SIGKILL)

    until(lambda: all(map(is_gone, (daemon, tests, above))))
    until(lambda: run.process.poll() is not None)
    until(lambda: not place.parent.exists())


def test_a_run_whose_whole_group_is_killed_leaves_nothing(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, STRAY, start_new_session=True, stdin=subprocess.DEVNULL)
    runs.append(run)
    daemon, tests, above, place = run.places()

    os.killpg(run.process.pid, signal.SIGKILL)

    until(lambda: all(map(is_gone, (daemon, tests, above))))
    until(lambda: not place.parent.exists())


def test_a_run_that_ends_leaves_nothing_and_gives_its_status(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, STRAY, takes_s=0)
    runs.append(run)
    daemon, _, _, place = run.places()

    assert run.process.wait(60) == 0

    assert is_gone(daemon)
    assert not place.parent.exists()


def test_a_run_that_is_asked_to_end_ends(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path, STRAY)
    runs.append(run)
    daemon, _, _, place = run.places()

    run.process.send_signal(signal.SIGTERM)

    assert run.process.wait(60) == 128 + signal.SIGTERM
    assert is_gone(daemon)
    assert not place.parent.exists()


def test_signals_that_were_ignored_are_heard_in_the_tests(tmp_path: Path, runs: list[Run]) -> None:
    def deaf() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    run = Run(tmp_path, HEARS, preexec_fn=deaf)
    runs.append(run)

    assert run.process.wait(60) == 0


def test_what_descends_is_found_however_deep() -> None:
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 9}

    assert reaper.descendants(2, parents) == {3, 4}
    assert reaper.descendants(1, parents) == {2, 3, 4, 5}
    assert reaper.descendants(7, parents) == set()
