"""The virtual machine of a task: brought up from whatever an earlier run has left of it, its checkpoints, its end.

A saved state is faster than a checkpoint, and lies beside them until it was loaded.
"""

from __future__ import annotations

import asyncio
import logging
import os

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.process_stat import read_stat
from host_agent.boinc.guest_checkpoints import GuestCheckpoints
from host_agent.errors import HostDiskFull, HypervisorError, PortTaken
from host_agent.hypervisors.contract import GuestPorts
from host_agent.own_centre.lone_host import LoneHost
from host_agent.verbs import AT_REST, More
from host_agent.vm import Verb
from schemas.vms import VmCreate, VmState

log = logging.getLogger(__name__)

#: Between two looks at what is at work on it, seconds.
LOOK_S = 0.2


class GuestMachine:
    """See the module. ``make`` before all else, where the VM is not known."""

    def __init__(self, host: LoneHost, wanted: VmCreate, vm: str = "") -> None:
        self._host, self._wanted = host, wanted
        self.vm = vm
        self.checkpoints = GuestCheckpoints(host, vm)
        #: Why it stands still, where that is known.
        self.reason = ""
        #: The checkpoint that it went back to, while it has written none since.
        self._back_to = ""
        #: Its process; 0 while there is none.
        self.pid = 0
        self._process: ProcessIdentity | None = None
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
            known = None
        # One that is there stays as it was made, whatever the client gives the task by now.
        self.vm = known.vm if known is not None else (await self._host.control.create(self._wanted)).vm
        self.checkpoints = GuestCheckpoints(self._host, self.vm)

    async def is_down(self) -> bool:
        """Whether it takes no memory of this computer. Raises HostError."""
        return await self._host.statuses.state(self.vm) in (*AT_REST, VmState.SAVED)

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
            for snapshot in reversed(await self.checkpoints.kept()):
                more, what = More(snapshot=snapshot.name), f"goes back to {snapshot.name}"
                if await self._tried(Verb.RESTORE_SNAPSHOT, what, more):
                    self._back_to = snapshot.name
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
        if status.pid != self.pid:
            self._process = ProcessIdentity.of(status.pid)
        self.pid, self.reason = status.pid, status.reason
        self._cpu.look(status.pid, status.cpu_seconds)
        return status.state

    async def ports(self) -> GuestPorts:
        """Say what of its guest is reached from this computer. Raises HypervisorError."""
        return (await self._host.hypervisor.facts(self.vm)).ports

    async def pause(self) -> None:
        """Have it stand still. Raises HostError."""
        await self._host.control.act(Verb.PAUSE, self.vm)

    async def resume(self) -> None:
        """Have it go on. Raises HostError."""
        await self._host.control.act(Verb.RESUME, self.vm)

    async def checkpoint(self) -> str:
        """Keep all of it as it is now; give the name of that. Raises HostError: what was kept before stands."""
        name = await self.checkpoints.write()
        self._back_to = ""
        return name

    async def save(self) -> bool:
        """Save its state and end it, once what is at work on it has ended; one that has ended stays as it is. Gives
        whether its state is saved. Waits for as long as it takes. Raises HostError."""
        while True:
            state = await self.look()
            if state in (VmState.RUNNING, VmState.PAUSED):
                await self._host.control.act(Verb.SAVESTATE, self.vm)
                await self.look()
                return True
            if state in AT_REST or state in (VmState.SAVED, VmState.MISSING):
                return state is VmState.SAVED
            await asyncio.sleep(LOOK_S)

    async def doubt_checkpoint(self) -> None:
        """It did not get on from the checkpoint that it went back to: let go of that one, if there is an older one."""
        kept = await self.checkpoints.kept()
        if self._back_to and len(kept) > 1 and kept[-1].name == self._back_to:
            log.warning("%s is let go of: nothing got on from it", self._back_to)
            await self.checkpoints.drop(kept[-1])

    async def may_go_on(self) -> bool:
        """Whether what it stands still for can be mended outside of it. Raises HostError."""
        return (await self._host.hypervisor.facts(self.vm)).may_go_on

    def kill(self) -> None:
        """End it at once, whatever is at work on it; what was kept of it before stands. Idempotent."""
        if self._process is not None:
            self._process.kill()

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
        except (HostDiskFull, PortTaken):
            raise  # it is not the state that is at fault
        except HypervisorError as error:
            log.error("the virtual machine does not: %s: %s", what, error)
            return False
        log.info("the virtual machine: %s", what)
        return True


class GuestCpu:
    """The CPU time of processes one after another, of which our own children are counted elsewhere once they have
    ended. Of one that was there before us only what it does from now on counts: the rest was told before."""

    def __init__(self) -> None:
        self._pid, self._is_child, self._first_s, self._last_s = 0, False, 0.0, 0.0
        self._ended_s = 0.0

    @property
    def total_s(self) -> float:
        """What there is to be added, seconds."""
        if self._is_child and not _lives(self._pid):
            return self._ended_s
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


def _lives(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and not stat.is_dead
