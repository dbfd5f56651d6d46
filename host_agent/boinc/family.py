"""All processes that belong to a task: what was started for it, and what those have started, in whatever way.

They bear the mark of the slot, or are linked to what does; one that has shed both is our child as soon as its parent
has ended, since we inherit orphans. A process that is not ours to signal is left, and told of. Those of virtual
machines are their driver's: by no mark, which anybody could bear, but as that knows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from broker.daemon.process_stat import ProcessStat, read_stat
from broker.vm_mark import MARK
from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import all_processes

log = logging.getLogger(__name__)

#: How long processes may take to be as they shall, seconds; and between two looks.
PATIENCE_S, LOOK_S = 10.0, 0.01
#: A program that handles the softer signal to stand still has so long for it, and is looked at so often, seconds.
SOFT_S, SOFT_LOOK_S = 1.0, 0.1
#: A process that is older has become the program that it is to be, seconds: it is not looked at again.
SETTLED_S = 2.0
#: In the environment of daemons and of what they start: they outlive a task.
OF_DAEMON = "VOLCLOUD_DAEMON=1"
#: How long a child that has ended is left to who has started it, seconds.
UNBURIED_S = 2.0
#: Looks in a row that find nobody: one that is about to become another program bears no mark for a moment.
_LOOKS_IN_VAIN = 2
#: Stopped; a process that hangs in the kernel stops when it is back.
_STOPPED, _GONE = "TtD", ""
_SET_CHILD_SUBREAPER = 36


def inherit_orphans() -> None:
    """Have descendants whose parents end become our children, so that none is lost and their CPU time is counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log.warning("orphans are not counted: %s", os.strerror(ctypes.get_errno()))


class _Marks(NamedTuple):
    is_ours: bool = False
    is_daemon: bool = False


class Family:
    """The processes of the task in ``slot``; this process is none of them."""

    def __init__(self, slot: Path) -> None:
        self._slot = slot
        self._mark = f"{MARK}={slot}".encode()
        #: Gives the processes of virtual machines.
        self.machines: Callable[[], set[int]] = set
        #: Of processes by pid and start, what marks they bear.
        self._known: dict[tuple[int, int], _Marks] = {}

    def members(self) -> set[int]:
        """Find them, in one pass."""
        return self._found()[0]

    def without_daemons(self) -> set[int]:
        """Find those that are no daemon's."""
        members, stats = self._found()
        spared = {pid for pid in members if self._known[pid, stats[pid].started].is_daemon}
        while grown := {pid for pid in members - spared if {stats[pid].parent, stats[pid].session} & spared}:
            spared |= grown
        return members - spared

    def _found(self) -> tuple[set[int], dict[int, ProcessStat]]:
        me = os.getpid()
        stats = {one.pid: one for one in all_processes() if not one.is_dead and one.pid != me}
        self._known = {(pid, stat.started): self._marks(stat) for pid, stat in stats.items()}
        machines = self.machines()
        members = {pid for pid, stat in stats.items() if stat.parent == me or self._known[pid, stat.started].is_ours}
        members -= machines
        while grown := {
            pid
            for pid, stat in stats.items()
            if pid not in members | machines and {stat.parent, stat.group, stat.session} & members
        }:
            members |= grown
        return members, stats

    def _marks(self, stat: ProcessStat) -> _Marks:
        """Say what marks a process bears, or has borne: a young one may show none as it becomes another program."""
        known = self._known.get((stat.pid, stat.started), _Marks())
        if stat.age_s > SETTLED_S and (stat.pid, stat.started) in self._known:
            return known
        return _Marks(*map(max, known, self._read(stat.pid)))

    def _read(self, pid: int) -> _Marks:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or gone
            return _Marks()
        is_ours = self._mark in environment
        return _Marks(is_ours, is_ours and OF_DAEMON.encode() in environment)

    def cpu_s(self) -> float:
        """Add up the CPU time of all, and of those that have ended, seconds. Parents are looked at first: what a child
        was counted for is then missing for a moment, and never there twice."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        stats = [read_stat(pid) for pid in sorted(self.members())]
        return ended.ru_utime + ended.ru_stime + sum(stat.family_cpu_s for stat in stats if stat is not None)

    def send(self, pids: Collection[int], number: signal.Signals) -> None:
        """Signal each; who has ended meanwhile does not matter."""
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                log.warning("process %d of the task takes no %s from us", pid, number.name)

    async def hold_up(self, *, softly: bool) -> None:
        """Have all stand still; ``softly``: by a signal that a program may handle first. Raises HypervisorError for who
        does not."""
        members = self.members()
        if softly:
            self.send(members, signal.SIGTSTP)
            deadline = time.monotonic() + SOFT_S
            while self._others(members, _STOPPED) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(SOFT_LOOK_S)
        self.send(self.members(), signal.SIGSTOP)
        await self._until(signal.SIGSTOP, _STOPPED, self.members)

    def let_go_on(self) -> None:
        """Let all go on; who has stopped a child of his own lets it go on himself."""
        self.send(self.members(), signal.SIGCONT)

    async def kill(self, *, spares_daemons: bool = False) -> None:
        """Leave nobody, or nobody but the daemons. Raises HypervisorError for what does not end."""
        await self._until(signal.SIGKILL, _GONE, self.without_daemons if spares_daemons else self.members)

    async def _until(self, number: signal.Signals, wanted: str, find: Callable[[], set[int]]) -> None:
        deadline, looks_in_vain = time.monotonic() + PATIENCE_S, 0
        while looks_in_vain < _LOOKS_IN_VAIN:
            others = self._others(await asyncio.to_thread(find), wanted)
            if others and time.monotonic() > deadline:
                raise HypervisorError(f"processes {sorted(others)} of the task do not obey {number.name}")
            self.send(others, number)
            looks_in_vain = 0 if others else looks_in_vain + 1
            if looks_in_vain < _LOOKS_IN_VAIN:
                await asyncio.sleep(LOOK_S)

    def _others(self, members: Collection[int], wanted: str) -> set[int]:
        """Name those that are neither gone nor as wanted. One whose first thread has ended shows no state of the
        others: it is taken as stopped once it was told to stop."""
        stats = [read_stat(pid) for pid in members]
        is_so = f"{wanted}ZX" if wanted else ""
        return {one.pid for one in stats if one is not None and not one.is_dead and one.run_state not in (is_so or "-")}


class Orphans:
    """Buries those who have become our children and have ended. Of what we have started ourselves who started it takes
    note, at once: so only who has lain for a while is buried here."""

    def __init__(self) -> None:
        self._dead_since: dict[int, float] = {}
        self._looked_s = 0.0

    def bury(self) -> None:
        """Bury who has lain long enough; asked often, it looks now and then."""
        me, now_s = os.getpid(), time.monotonic()
        if now_s - self._looked_s < UNBURIED_S:
            return
        self._looked_s = now_s
        dead = {one.pid for one in all_processes() if one.parent == me and one.is_dead}
        self._dead_since = {pid: self._dead_since.get(pid, now_s) for pid in dead}
        for pid, since_s in self._dead_since.items():
            if now_s - since_s > UNBURIED_S:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
