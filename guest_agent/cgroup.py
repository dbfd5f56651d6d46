"""Control groups of our own image: what a job may use, what it has used, and whom the kernel ended for it.

Only where the machine is the agent's own: it runs in the root group of a version 2 hierarchy, with memory and pids to
give on. The jobs' groups lie in one that bounds them together; starters have a group beside it, so that what jobs are
given is theirs alone. A job's group is made anew for each, so that its peak and its counts are that job's.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from msgspec import Struct

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
#: The group of all jobs, and that of all starters.
JOBS, STARTERS = "jobs", "starters"
#: What is given on to jobs; the first two must be there.
CONTROLLERS = ("memory", "pids", "cpu", "io")
#: Memory that is left to the agent and the kernel whatever jobs take: a tenth, and at least this, bytes.
RESERVE_BYTES = 64 << 20
#: What the starter of each slot takes, bytes.
STARTER_BYTES = 12 << 20
#: What the forge of minders takes, and a few minders with it, bytes.
MINDERS_BYTES = 20 << 20
#: Processes and threads that one job may have.
MOST_PROCESSES = 4096
#: The kernel's period for shares of processors, microseconds.
PERIOD_US = 100_000


class Figures(Struct, frozen=True, kw_only=True):
    """What a job has used, by the kernel's books. ``peak_bytes`` is 0 where the kernel keeps none."""

    cpu_seconds: float
    #: Of them in system mode, where they are told apart.
    system_seconds: float = 0.0
    peak_bytes: int
    #: Processes that the kernel ended because the job was at its limit of memory.
    oom_kills: int = 0
    #: Times that it was at its own limit of memory with nothing to give up; else the kernel was short elsewhere.
    ooms: int = 0
    #: Times that it could not fork because it was at its limit of processes.
    forks_refused: int = 0


class SlotGroup:
    """The groups of one slot: its job's, and the one in which its starter is with all others."""

    def __init__(self, path: Path) -> None:
        self.job = path
        self.starter = path.parent.parent / STARTERS

    def begin(self, *, memory_bytes: int, cpus: int) -> None:
        """Make the next job's group, with its limits; 0 is none of its own. What was left of one before is ended."""
        self.remove()
        _make(self.job)
        _write(self.job / "pids.max", str(MOST_PROCESSES))
        _write(self.job / "memory.oom.group", "1")
        if memory_bytes:
            _write(self.job / "memory.max", str(memory_bytes))
        if cpus and (self.job / "cpu.max").exists():
            _write(self.job / "cpu.max", f"{cpus * PERIOD_US} {PERIOD_US}")
            _write(self.job / "cpu.weight", str(min(100 * cpus, 10_000)))

    def figures(self) -> Figures:
        """Read what the job has used."""
        return Figures(
            cpu_seconds=_number(self.job / "cpu.stat", "usage_usec") / 1e6,
            peak_bytes=_whole(self.job / "memory.peak"),
            oom_kills=_number(self.job / "memory.events", "oom_kill"),
            ooms=_number(self.job / "memory.events", "oom"),
            forks_refused=_number(self.job / "pids.events", "max"),
        )

    def resident_bytes(self) -> int:
        """Read what the job has in memory now."""
        return _whole(self.job / "memory.current")

    def remove(self) -> None:
        """End all that is in the job's group and remove it. Nothing happens where there is none."""
        if self.job.exists():
            _write(self.job / "cgroup.kill", "1")
            self.job.rmdir()


def memory_for_jobs(total_bytes: int, slots: int) -> int:
    """Give what all jobs may have together of a machine's memory; of a very small one, a fourth."""
    kept = max(RESERVE_BYTES, total_bytes // 10) + slots * STARTER_BYTES + MINDERS_BYTES
    return max(total_bytes - kept, total_bytes // 4)


def own_groups(memory_bytes: int, root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Path | None:
    """Make the group in which the slots' lie and have so much memory; None where that cannot be done."""
    try:
        if os.geteuid() != 0 or own.read_text().strip() != "0::/":
            return None
        offered = (root / "cgroup.controllers").read_text().split()
        if not {"memory", "pids"} <= set(offered) or not (root / "cgroup.procs").exists():
            return None
        jobs = root / JOBS
        _give_on(root)
        _make(root / STARTERS)
        _make(jobs)
        _give_on(jobs)
        _write(jobs / "memory.max", str(memory_bytes))
    except OSError as error:
        log.warning("no control groups for jobs", extra={"why": str(error)})
        return None
    return jobs


def _make(path: Path) -> None:
    path.mkdir(exist_ok=True)


def _give_on(path: Path) -> None:
    offered = (path / "cgroup.controllers").read_text().split()
    for controller in (name for name in CONTROLLERS if name in offered):
        _write(path / "cgroup.subtree_control", f"+{controller}")


def _write(path: Path, word: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, word.encode())
    finally:
        os.close(descriptor)


def _whole(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(path.read_text())
    return 0


def _number(path: Path, key: str) -> int:
    """Read one line of a file of keys and numbers; 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        found = dict(line.split() for line in path.read_text().splitlines())
        return int(found.get(key, 0))
    return 0
