"""All processes that belong to a task: what was started for it, and what those have started, in whatever way.

They bear the mark of the slot, or are linked to what does; one that has shed both is our child as soon as its parent
has ended, since we inherit orphans. A process that is not ours to signal is left, and told of.
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
from collections.abc import Collection
from pathlib import Path

from broker.daemon.process_stat import read_stat
from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import all_processes, find_tree

log = logging.getLogger(__name__)

#: How long processes may take to be as they shall, seconds; and between two looks.
PATIENCE_S, LOOK_S = 10.0, 0.01
#: A program that handles the softer signal to stand still has so long for it, seconds.
SOFT_S = 1.0
#: Looks in a row that find nobody: one that is about to become another program bears no mark for a moment.
_LOOKS_IN_VAIN = 2
#: Stopped; a process that hangs in the kernel stops when it is back.
_STOPPED, _GONE = "TtD", ""
_SET_CHILD_SUBREAPER = 36


def inherit_orphans() -> None:
    """Have descendants whose parents end become our children, so that none is lost and their CPU time is counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log.warning("orphans are not counted: %s", os.strerror(ctypes.get_errno()))


class Family:
    """The processes of the task in ``slot``; this process is none of them."""

    def __init__(self, slot: Path) -> None:
        self._slot = slot

    def members(self) -> set[int]:
        """Find them."""
        me = os.getpid()
        stats = [one for one in all_processes() if not one.is_dead and one.pid != me]
        members = find_tree(self._slot, None) | {one.pid for one in stats if one.parent == me}
        while grown := {one.pid for one in stats if one.pid not in members and one.parent in members}:
            members |= grown
        return members

    def without(self, kept: Collection[int]) -> set[int]:
        """Find those that descend from none of ``kept``, in parentage or session."""
        stats = {pid: stat for pid in self.members() if (stat := read_stat(pid)) is not None}
        spared = set(kept)
        while grown := {
            pid for pid, stat in stats.items() if pid not in spared and {stat.parent, stat.session} & spared
        }:
            spared |= grown
        return set(stats) - spared

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
        """Have all stand still; ``softly``: by a signal that a program may handle first. Raises HypervisorError."""
        if softly:
            self.send(self.members(), signal.SIGTSTP)
            deadline = time.monotonic() + SOFT_S
            while self._others(self.members(), _STOPPED) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
        await self._until(signal.SIGSTOP, _STOPPED)

    async def let_go_on(self) -> None:
        """Let all go on. Raises HypervisorError."""
        await self._until(signal.SIGCONT, "RSDI")

    async def kill(self, kept: Collection[int] = ()) -> None:
        """Leave nobody, but for who descends from ``kept``. Raises HypervisorError for what does not end."""
        await self._until(signal.SIGKILL, _GONE, kept)

    async def _until(self, number: signal.Signals, wanted: str, kept: Collection[int] = ()) -> None:
        deadline, looks_in_vain = time.monotonic() + PATIENCE_S, 0
        while looks_in_vain < _LOOKS_IN_VAIN:
            members = await asyncio.to_thread(self.without, kept) if kept else await asyncio.to_thread(self.members)
            others = self._others(members, wanted)
            if others and time.monotonic() > deadline:
                raise HypervisorError(f"processes {sorted(others)} of the task do not obey {number.name}")
            self.send(others, number)
            looks_in_vain = 0 if others else looks_in_vain + 1
            if looks_in_vain < _LOOKS_IN_VAIN:
                await asyncio.sleep(LOOK_S)

    def _others(self, members: Collection[int], wanted: str) -> set[int]:
        stats = [read_stat(pid) for pid in members]
        return {stat.pid for stat in stats if stat is not None and stat.run_state not in f"ZX{wanted}"}


def bury(ours: dict[int, object]) -> int | None:
    """Take note of one process that has ended: give the pid of one of ``ours``, which is not buried, bury another one
    and give 0; None where nobody has ended."""
    with contextlib.suppress(ChildProcessError):
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_pid in ours:
            return found.si_pid
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)
        return 0
    return None
