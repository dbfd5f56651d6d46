"""The virtual machine of a task: brought up from whatever an earlier run has left of it, its checkpoints, its end.

A checkpoint is a snapshot of disk and memory together, and two are kept: the older one is there until the newer has
been written wholly. A saved state is faster, and lies beside them until it was loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time

from broker.daemon.process_stat import read_stat
from host_agent.errors import HostDiskFull, HostError, HypervisorError
from host_agent.own_centre.lone_host import LoneHost
from host_agent.verbs import AT_REST, More
from host_agent.vm import Verb
from schemas.vms import VmCreate, VmSnapshot, VmState

log = logging.getLogger(__name__)

#: Checkpoints that are kept.
KEPT = 2
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,9})")


class GuestMachine:
    """See the module. ``up`` before all else."""

    def __init__(self, host: LoneHost, wanted: VmCreate) -> None:
        self._host, self._wanted = host, wanted
        self.vm = ""
        #: Its process; 0 while there is none.
        self.pid = 0
        self._cpu = GuestCpu()

    @property
    def cpu_s(self) -> float:
        """The CPU time of its processes that nobody else has counted, seconds."""
        return self._cpu.total_s

    async def make(self) -> None:
        """Have the machine, in whatever state, and its image whole. Raises HostError."""
        if self._host.hypervisor.capabilities.needs_image:
            await asyncio.to_thread(self._host.images.resolve, self._wanted.image)
        known = self._host.registry.named(self._wanted.name)
        if known is not None and await self._host.statuses.state(known.vm) is VmState.MISSING:
            log.warning("the virtual machine has gone, with all that was kept of it: it is made anew")
            await self._host.control.delete(known.vm)
        self.vm = (await self._host.control.create(self._wanted)).vm

    async def up(self) -> None:
        """Have it run or stand still, with all that can be had of what it did before. Raises HostError."""
        await self._bring_up()
        await self.look()

    async def _bring_up(self) -> None:
        state = await self._host.statuses.state(self.vm)
        if state is VmState.SAVED:
            if await self._tried(Verb.START, "goes on from its saved state"):
                return
            await self._tried(Verb.DISCARD, "its saved state is thrown away")
            state = await self._host.statuses.state(self.vm)
        if state in AT_REST:
            for snapshot in reversed(await self._checkpoints()):
                more, what = More(snapshot=snapshot.name), f"goes back to {snapshot.name}"
                if await self._tried(Verb.RESTORE_SNAPSHOT, what, more):
                    return
            await self._host.control.act(Verb.START, self.vm)
            log.info("the virtual machine boots")
        elif state is VmState.STUCK:
            await self.resume()
        else:
            log.info("the virtual machine is %s, and is taken over", state)

    async def look(self) -> VmState:
        """Say how it is, and count its CPU time. Raises HostError."""
        status = await self._host.statuses.one(self.vm)
        self.pid = status.pid
        self._cpu.look(status.pid, status.cpu_seconds)
        return status.state

    async def pause(self) -> None:
        """Have it stand still. Raises HostError."""
        await self._host.control.act(Verb.PAUSE, self.vm)

    async def resume(self) -> None:
        """Have it go on. Raises HostError."""
        await self._host.control.act(Verb.RESUME, self.vm)

    async def checkpoint(self) -> str:
        """Keep all of it as it is now, and let go of what is older than the one before; give its name. Where there is
        no room for a third one the oldest gives way. Raises HostError: those that there are stand."""
        kept = await self._checkpoints()
        name = f"checkpoint-{_number(kept[-1].name) + 1 if kept else 1}"
        try:
            await self._host.control.act(Verb.TAKE_SNAPSHOT, self.vm, More(snapshot=name))
        except HostDiskFull:
            if len(kept) < KEPT:
                raise
            await self._drop(kept[0])
            await self._host.control.act(Verb.TAKE_SNAPSHOT, self.vm, More(snapshot=name))
        for old in (await self._checkpoints())[:-KEPT]:
            await self._drop(old)
        return name

    async def last_checkpoint(self) -> str:
        """Name the newest one; empty where there is none. Raises HostError."""
        kept = await self._checkpoints()
        return kept[-1].name if kept else ""

    async def save(self) -> None:
        """Save its state and end it; one that has ended already stays as it is. Raises HostError."""
        if await self._host.statuses.state(self.vm) in (VmState.RUNNING, VmState.PAUSED):
            await self._host.control.act(Verb.SAVESTATE, self.vm)

    async def off(self) -> None:
        """End it; its checkpoints stand. Raises HostError."""
        await self._host.control.act(Verb.POWEROFF, self.vm)
        self.pid = 0

    async def delete(self) -> None:
        """Leave nothing of it. Raises HostError."""
        await self.off()
        await self._host.control.delete(self.vm)

    async def _tried(self, verb: Verb, what: str, more: More | None = None) -> bool:
        try:
            await self._host.control.act(verb, self.vm, more or More())
        except HostDiskFull:
            raise  # it is not the state that is at fault
        except HypervisorError as error:
            log.error("the virtual machine does not: %s: %s", what, error)
            return False
        log.info("the virtual machine: %s", what)
        return True

    async def _checkpoints(self) -> list[VmSnapshot]:
        if self._host.hypervisor.capabilities.snapshots is None:
            return []
        found = await self._host.control.snapshots(self.vm)
        return sorted((one for one in found if _CHECKPOINT.fullmatch(one.name)), key=lambda one: _number(one.name))

    async def _drop(self, snapshot: VmSnapshot) -> None:
        with contextlib.suppress(HostError):  # the next one sees to it
            await self._host.control.act(Verb.DELETE_SNAPSHOT, self.vm, More(snapshot=snapshot.name))


class GuestCpu:
    """The CPU time of processes one after another, of which our own children are counted elsewhere once they have
    ended. Of one that was there before us only what it does from now on counts: the rest was told before."""

    def __init__(self) -> None:
        self._began_s = time.time()
        self._pid, self._is_child, self._first_s, self._last_s = 0, False, 0.0, 0.0
        self._ended_s = 0.0

    @property
    def total_s(self) -> float:
        """What there is to be added, seconds."""
        return self._ended_s + self._last_s - self._first_s

    def look(self, pid: int, cpu_s: float) -> None:
        """Take what a process has used since it began; 0 for no process."""
        if pid != self._pid:
            if not self._is_child:
                self._ended_s += self._last_s - self._first_s
            stat = read_stat(pid) if pid else None
            self._is_child = stat is not None and stat.parent == os.getpid()
            self._pid, self._last_s, self._first_s = pid, 0.0, 0.0 if self._is_child else cpu_s
        self._last_s = max(self._last_s, cpu_s, self._first_s)


def _number(name: str) -> int:
    found = _CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else 0
