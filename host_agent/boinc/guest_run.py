"""Carries out tasks in virtual machines under BOINC: what the client wants of a task becomes verbs on its machine.

A suspension is a pause and never a save; an end is a saved state, or, where that takes too long, the last checkpoint.
Whatever takes long is broken off when the client wants an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from broker.daemon.wakeup import Wakeup
from host_agent.boinc.checkpoint_turn import CheckpointTurn
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.endings import ExitCode, SlotEnding, finished
from host_agent.boinc.guest_machine import GuestMachine
from host_agent.boinc.guest_tasks import STATUS, STDERR, STDOUT, GuestTasks, fraction_in, status_of
from host_agent.boinc.init_data import InitData
from host_agent.boinc.plan import GuestPlan, TaskPlan
from host_agent.boinc.progress import Progress
from host_agent.boinc.project_images import DEFAULT_IMAGE
from host_agent.errors import GuestSilent, HostError, Interrupted, UnknownVm
from host_agent.own_centre.guest_job import GuestJob, GuestJobEnd
from host_agent.own_centre.lone_host import LoneHost
from host_agent.own_centre.own_centre import OwnCentre
from host_agent.verbs import AT_REST
from schemas.jobs import Outcome
from schemas.plain_text import plain
from schemas.vms import VmCreate, VmState

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Between two steps where nothing happens, and between two looks at what takes long, seconds.
STEP_S, LOOK_S = 0.5, 0.1
#: The client kills who has not ended a minute after it was told to: so long a machine may take to be saved, seconds.
SAVE_S = 45.0
#: A guest that says nothing for so long while its machine runs is as good as dead, seconds: it may boot meanwhile.
SILENT_S = 1200.0
#: Ends of its own without a checkpoint between them, after which a machine is left for later.
MOST_CRASHES = 3
#: How often a machine that stands still for want of something is let go on again, seconds; and until it is left.
STUCK_AGAIN_S, STUCK_S = 10.0, 300.0
#: Memory of the volunteer's that stays free, MiB, and the disk of a guest, as large as it may grow.
SPARE_MIB, DISK_MIB = 64, 8192


class GuestNeeds(Struct, frozen=True, kw_only=True):
    """What guests of a task may have."""

    cpus: int = 1
    disk_mib: int = DISK_MIB
    output_bytes: int = 64 << 30
    checkpoint_s: float = 0.0


def needs_of(data: InitData, nthreads: int) -> GuestNeeds:
    """Say what the client lets the guests of a task have."""
    bound_mib = int(data.disk_bound_bytes) >> 20
    cpus = nthreads or max(1, round(data.ncpus))
    return GuestNeeds(
        cpus=min(cpus, 32),
        disk_mib=max(1024, min(bound_mib, DISK_MIB)) if bound_mib else DISK_MIB,
        output_bytes=int(data.disk_bound_bytes) or (64 << 30),
        checkpoint_s=data.checkpoint_period_s,
    )


class GuestRun:
    """See the module. ``open`` first, ``close`` last; ``run`` for one task after another."""

    def __init__(
        self,
        host: LoneHost,
        tasks: GuestTasks,
        progress: Progress,
        link: ClientLink,
        needs: GuestNeeds,
        turn: CheckpointTurn,
        wakeup: Wakeup,
    ) -> None:
        self._host, self._tasks, self._progress, self._link = host, tasks, progress, link
        self._needs, self._turn, self._wakeup = needs, turn, wakeup
        host.on_change = wakeup.wake
        self._machines: dict[str, GuestMachine] = {}
        self._machine: GuestMachine | None = None
        self._crashes = 0
        self._heard_s = self._since_s = time.monotonic()
        self._stuck_since_s: float | None = None
        self._trouble = ""
        #: Called in each step: what else there is to be seen to.
        self.on_step: Callable[[], Awaitable[None]] = _nothing
        #: Called when a machine has got on.
        self.on_progress: Callable[[], None] = lambda: None

    @property
    def cpu_s(self) -> float:
        """CPU time of all machines that is counted nowhere else, seconds."""
        return sum(machine.cpu_s for machine in self._machines.values())

    def processes(self) -> set[int]:
        """Give the processes of the machines."""
        return {machine.pid for machine in self._machines.values()} - {0}

    async def open(self) -> None:
        """Find what an earlier run has left. Raises HostError, OSError."""
        await self._host.open()

    async def close(self, ending: SlotEnding) -> None:
        """End all machines: removed where the task has come to its end, powered off where it does not get on, and else
        saved. Nothing of them runs then."""
        try:
            if ending.is_for_good:
                await self._each("removed", GuestMachine.delete)
            elif not ending.delay_s:
                await self._each("saved", _saved)
        finally:
            with contextlib.suppress(HostError):
                await self._host.control.poweroff_all()
            await self._host.close()

    async def run(self, task: TaskPlan, guest: GuestPlan, number: int, *, is_last: bool) -> SlotEnding | None:
        """Carry out one task, the ``number``-th; None when it is done, and else how all of it ends. Raises HostError,
        OSError, and Interrupted where the client wants an end."""
        job = self._tasks.job(task, guest, number)
        machine = await self._made(guest)
        centre = await self._host.order(machine.vm, job, most_bytes=self._needs.output_bytes)
        if centre.end is None:
            await self._unless_ending(machine.up())
            await self._follow(machine, task, guest, centre)
        end = centre.end
        assert end is not None
        ending = await self._conclude(task, guest, job, end)
        if ending is None and not is_last:
            await self._checkpoint(machine)
        await asyncio.to_thread(self._host.forget, job)
        return ending

    async def _made(self, guest: GuestPlan) -> GuestMachine:
        if guest.name not in self._machines:
            wanted = VmCreate(
                name=f"machine-{len(self._machines) + 1}",
                cpus=self._needs.cpus,
                memory_mib=guest.memory_mib,
                disk_mib=self._needs.disk_mib,
                image=guest.image or DEFAULT_IMAGE,
            )
            machine = self._machines[guest.name] = GuestMachine(self._host, wanted)
            await self._unless_ending(machine.make())
        self._machine = self._machines[guest.name]
        return self._machine

    async def _follow(self, machine: GuestMachine, task: TaskPlan, guest: GuestPlan, centre: OwnCentre) -> None:
        """See to the machine until its job has ended."""
        every_s = max(guest.checkpoint_s, self._needs.checkpoint_s)
        # Not all tasks of a host at once: the first one comes after a while that chance decides.
        due_s = time.monotonic() + every_s + random.uniform(0, every_s)
        self._heard_s = self._since_s = time.monotonic()
        while centre.end is None:
            self._refuse_to_go_on()
            await self.on_step()
            state = await self._step(machine, task, centre)
            if state is VmState.RUNNING and time.monotonic() >= due_s and self._turn.take():
                try:
                    await self._unless_ending(self._checkpoint(machine))
                finally:
                    self._turn.give_back()
                    due_s = time.monotonic() + every_s
            await self._wakeup.sleep(STEP_S)

    async def _step(self, machine: GuestMachine, task: TaskPlan, centre: OwnCentre) -> VmState:
        state = await machine.look()
        self._take_time(state)
        self._tell(machine, task, centre)
        if state in AT_REST or state is VmState.SAVED:
            await self._bring_back(machine)
        elif state is VmState.STUCK:
            await self._free(machine)
        else:
            self._stuck_since_s = None
            await self._follow_suspension(machine, state)
        self._listen(machine, centre, state)
        return state

    def _tell(self, machine: GuestMachine, task: TaskPlan, centre: OwnCentre) -> None:
        """Tell the client how far it is, and people what is in the way."""
        held = centre.holding
        self._progress.status.other_pid = machine.pid
        told = centre.told(task.fraction_done) if task.fraction_done else None
        self._progress.look(fraction_in(told.content) if told is not None else 0.0)
        trouble = centre.trouble or (plain(held.trouble) if held is not None else "")
        if trouble != self._trouble:
            log.warning("the job in the guest waits: %s", trouble or "no more")
        self._trouble = trouble

    def _take_time(self, state: VmState) -> None:
        now_s = time.monotonic()
        if state is VmState.RUNNING:
            self._progress.runtime_s += now_s - self._since_s
        self._since_s = now_s

    async def _follow_suspension(self, machine: GuestMachine, state: VmState) -> None:
        wanted = self._link.will.is_suspended
        try:
            if wanted and state is VmState.RUNNING:
                await machine.pause()
                log.info("suspended: the virtual machine stands still")
            elif not wanted and state is VmState.PAUSED:
                await self._unless_ending(machine.resume())
                self._heard_s = time.monotonic()
                log.info("resumed: the virtual machine goes on")
        except Interrupted:
            raise
        except HostError as error:
            # The next step looks how it is, and tries again.
            log.error("the virtual machine does not obey: %s", error)

    async def _bring_back(self, machine: GuestMachine) -> None:
        self._crashes += 1
        if self._crashes > MOST_CRASHES:
            raise GuestSilent(f"the virtual machine has ended by itself {self._crashes} times without getting on")
        log.warning("the virtual machine has ended by itself (%d of %d)", self._crashes, MOST_CRASHES)
        await self._unless_ending(machine.up())
        self._heard_s = time.monotonic()

    async def _free(self, machine: GuestMachine) -> None:
        """A machine stands still for want of something of this host's, as a disk: let it go on as soon as it may."""
        now_s = time.monotonic()
        if self._stuck_since_s is None:
            self._stuck_since_s = now_s
            log.warning("the virtual machine waits for this computer: is the disk full?")
        elif now_s - self._stuck_since_s > STUCK_S:
            raise GuestSilent("the virtual machine waits for this computer for minutes: is the disk full?")
        try:
            await self._unless_ending(machine.resume())
        except Interrupted:
            raise
        except HostError:
            deadline = now_s + STUCK_AGAIN_S
            while time.monotonic() < deadline:
                self._refuse_to_go_on()
                await self._wakeup.sleep(STEP_S)

    def _listen(self, machine: GuestMachine, centre: OwnCentre, state: VmState) -> None:
        """Count for how long a guest has said nothing. Raises GuestSilent."""
        now_s = time.monotonic()
        if state is not VmState.RUNNING or self._host.guests.facts(machine.vm) is not None:
            self._heard_s = now_s
        elif now_s - self._heard_s > SILENT_S:
            last = self._host.last_line(machine.vm)
            raise GuestSilent(f"the guest says nothing for {SILENT_S / 60:g} minutes; its console ended with: {last!r}")

    async def _checkpoint(self, machine: GuestMachine) -> None:
        """Keep the machine as it is. What comes between is told, and the last one stands."""
        if self._host.hypervisor.capabilities.snapshots is None:
            return
        began_s = time.monotonic()
        try:
            name = await machine.checkpoint()
        except (Interrupted, UnknownVm):
            raise
        except (HostError, OSError) as error:
            with contextlib.suppress(HostError):
                last = await machine.last_checkpoint()
                log.error("no checkpoint: %s; %s stands", error, last or "none is there, and the beginning")
            return
        self._crashes = 0
        self.on_progress()
        self._progress.checkpoint()
        log.info("%s is written, in %.1f s", name, time.monotonic() - began_s)

    async def _conclude(self, task: TaskPlan, guest: GuestPlan, job: GuestJob, end: GuestJobEnd) -> SlotEnding | None:
        """Put the outputs where they belong, and say how all of it ends; None where the next task comes."""
        found = {name: self._host.output(job, end, name) for name in (STATUS, STDOUT, STDERR, *guest.outputs)}
        lacking = await asyncio.to_thread(self._tasks.place, task, guest, found)
        where = f"{task.application} (line {task.line} of the job file)"
        status = status_of(found[STATUS])
        if end.outcome is not Outcome.DONE or status is None:
            return finished(ExitCode.CHILD_FAILED, f"{where} did not end well in its guest: {plain(end.cause)}")
        if status != 0:
            return finished(ExitCode.CHILD_FAILED, f"{where} ended with status {status}; {_last_line(found[STDERR])}")
        if lacking:
            return finished(ExitCode.NO_OUTPUT, f"{where} has not made {', '.join(lacking)}")
        log.info("%s has ended well, in attempt %d", task.application, end.attempt)
        return None

    def _refuse_to_go_on(self) -> None:
        if self._link.will.must_end:
            raise Interrupted("the client wants an end")

    async def _unless_ending(self, work: Awaitable[T]) -> T:
        """Do what takes long, and break it off when the client wants an end. Raises Interrupted then."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                self._refuse_to_go_on()
                await asyncio.wait([task], timeout=LOOK_S)
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _each(self, how: str, act: Callable[[GuestMachine], Awaitable[None]]) -> None:
        deadline = asyncio.get_running_loop().time() + SAVE_S
        for machine in self._machines.values():
            if not machine.vm:
                continue
            try:
                async with asyncio.timeout_at(deadline):
                    await act(machine)
            except (HostError, OSError, TimeoutError) as error:
                last = ""
                with contextlib.suppress(HostError):
                    last = await machine.last_checkpoint()
                text = str(error) or f"it takes longer than {SAVE_S:g} s"
                log.error("the virtual machine is not %s: %s; %s stands", how, text, last or "the beginning")


async def _saved(machine: GuestMachine) -> None:
    await machine.save()
    log.info("the virtual machine is saved")


async def _nothing() -> None:
    return None


def _last_line(content: bytes | Path | None) -> str:
    """Give the last line that a program has printed, for people."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            file.seek(max(0, content.stat().st_size - 1000))
            content = file.read(1000)
    lines = (content or b"").decode(errors="replace").strip().splitlines()
    return f"its last line: {plain(lines[-1])}" if lines else "it printed no error"
