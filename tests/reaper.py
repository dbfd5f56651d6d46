"""Runs a pytest and outlives it: what it started is gone afterwards, and so is its temporary tree, also after SIGKILL.

Three processes, so that any one may be killed, and where there is no terminal a whole group of them: the pytest that a
person started waits (``hand_over``), the reaper (this file, run as a program) starts the one that tests, and that one
dies with the reaper. Both that wait adopt orphans (PR_SET_CHILD_SUBREAPER), so that a daemon which has left its parent,
its session and its environment is still theirs.
The tree of processes is read from /proc; nothing else on the machine is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

#: Set in the environment of the reaper and of the pytest that tests: the run's temporary tree.
TREE = "VOLCLOUD_TESTS_TREE"
#: Set in the reaper's: the command to run, in JSON. Not in its arguments, so that who kills all that is called pytest
#: leaves it alone.
COMMAND = "VOLCLOUD_TESTS_COMMAND"
#: Set by a person: leave the temporary tree of a run that ended by itself.
KEEP = "VOLCLOUD_TESTS_KEEP"
#: How often those that wait look, seconds.
LOOK_S = 0.02

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def hand_over(arguments: list[str]) -> int:
    """Run pytest with ``arguments`` under a reaper and give its exit status. Cleans up itself if that is killed."""
    tree = Path(tempfile.mkdtemp(prefix="vt-"))
    tree.chmod(0o711)  # PostgreSQL and payloads run as others, and pass through
    told = {COMMAND: json.dumps([sys.executable, "-m", "pytest", *arguments]), TREE: str(tree), "TMPDIR": str(tree)}
    _adopt_orphans()
    with _passing_signals_on() as children:
        reaper = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(os.getpid())],
            env=os.environ | told,
            # Who has no terminal, such as a runner of CI, may be killed with all of his group; the reaper is not then.
            start_new_session=not os.isatty(0),
        )
        children.append(reaper.pid)
        status = reaper.wait()
        _clean_up(tree, is_killed=status < 0)
    return 128 - status if status < 0 else status


def reap(parent: int, tree: Path, command: list[str]) -> int:
    """Run ``command`` until it ends or ``parent`` does; then end all that descends from it and remove its tree."""
    _adopt_orphans()
    environment = {name: value for name, value in os.environ.items() if name != COMMAND}
    status = -1
    try:
        with _passing_signals_on() as children:
            tests = subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent)
            children.append(tests.pid)
            status = _wait(tests, parent)
    finally:
        _clean_up(tree, is_killed=status < 0)
    return status


def _clean_up(tree: Path, *, is_killed: bool) -> None:
    kill_descendants()
    if is_killed or not os.environ.get(KEEP):
        remove(tree)


def _wait(tests: subprocess.Popen[bytes], parent: int) -> int:
    """Give the exit status of the tests; below 0 when there is nobody left to tell. Orphans that end are collected."""
    while os.getppid() == parent:
        for pid, status in _collect():
            if pid == tests.pid:
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code
        time.sleep(LOOK_S)
    return -1


def kill_descendants() -> None:
    """Kill all that descends from this process, again until there is nothing: what forks meanwhile is seen too."""
    while found := descendants(os.getpid(), parents()):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        list(_collect())
        time.sleep(0.01)


def descendants(pid: int, parents: Mapping[int, int]) -> set[int]:
    """Give all that descends from ``pid`` in a table of each process's parent."""
    found: set[int] = set()
    fresh = {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def remove(tree: Path) -> None:
    """Remove a tree, with what is mounted in it."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = line.split()[4].encode().decode("unicode_escape")
        if place.startswith(f"{tree}/"):
            _libc.umount2(place.encode(), _MNT_DETACH)
    shutil.rmtree(tree, ignore_errors=True)


def parents() -> dict[int, int]:
    """Read the parent of each process of the machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_bytes()
                found[int(entry.name)] = int(stat.rpartition(b")")[2].split()[1])
    return found


def _collect() -> Iterator[tuple[int, int]]:
    """Take the ends of those that have died, so that they are gone from /proc."""
    with contextlib.suppress(ChildProcessError):
        while (end := os.waitpid(-1, os.WNOHANG))[0]:
            yield end


def _adopt_orphans() -> None:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[list[int]]:
    """Wait on through what is meant for the tests, and pass it on; a terminal's Ctrl-C reaches them by itself."""
    children: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    handlers = {signal.SIGTERM: pass_on, signal.SIGHUP: pass_on}
    handlers[signal.SIGINT] = (lambda *_: None) if os.isatty(0) else pass_on
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(reap(int(sys.argv[1]), Path(os.environ[TREE]), json.loads(os.environ[COMMAND])))
