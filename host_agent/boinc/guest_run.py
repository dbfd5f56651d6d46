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

from broker.daemon.wakeup import Wakeup
from host_agent.boinc.checkpoint_turn import CheckpointTurn
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.endings import ExitCode, SlotEnding, finished
from host_agent.boinc.guest_care import STEP_S, GuestCare
from host_agent.boinc.guest_machine import GuestMachine
from host_agent.boinc.guest_needs import GuestNeeds
from host_agent.boinc.guest_tasks import STATUS, STDERR, STDOUT, GuestTasks, status_of
from host_agent.boinc.plan import GuestPlan, SharedPlan, TaskPlan
from host_agent.boinc.progress import Progress
from host_agent.boinc.project_images import DEFAULT_IMAGE
from host_agent.boinc.triggers import Triggers, ending_of
from host_agent.errors import HostError, Interrupted, UnknownVm
from host_agent.own_centre.guest_job import GuestJob, GuestJobEnd
from host_agent.own_centre.lone_host import LoneHost
from host_agent.own_centre.own_centre import OwnCentre
from schemas.jobs import Outcome, OutputEntry
from schemas.plain_text import plain
from schemas.vms import VmCreate, VmState

log = logging.getLogger(__name__)

#: The client kills who has not ended a minute after it was told to: so long machines may take to be saved, seconds.
SAVE_S = 45.0


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
        self._care = GuestCare(host, link, wakeup)
        host.on_change = wakeup.wake
        self._machines: dict[str, GuestMachine] = {}
        self._since_s = time.monotonic()
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
            elif not ending.delay_s or ending.is_saved:
                await self._each("saved", _saved)
        finally:
            with contextlib.suppress(HostError):
                await self._host.control.poweroff_all()
            await self._host.close()

    async def run(self, task: TaskPlan, guest: GuestPlan, number: int, *, is_last: bool) -> SlotEnding | None:
        """Carry out one task, the ``number``-th; None when it is done, and else how all of it ends. Raises HostError,
        OSError, and Interrupted where the client wants an end."""
        guest = await asyncio.to_thread(self._tasks.settle, task, guest)
        job = self._tasks.job(task, guest, number)
        machine = await self._made(guest)
        centre = await self._host.order(machine.vm, job, most_bytes=self._needs.output_bytes)
        if centre.end is None:
            await self._care.unless_ending(machine.up())
            ending = await self._follow(machine, task, guest, job, centre)
            if ending is not None:
                await self._take_early(task, guest, job, centre)
                return ending
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
                memory_mib=self._needs.memory_mib or guest.memory_mib,
                disk_mib=self._needs.disk_mib,
                image=guest.image or DEFAULT_IMAGE,
            )
            machine = self._machines[guest.name] = GuestMachine(self._host, wanted)
            await self._care.unless_ending(machine.make())
        return self._machines[guest.name]

    async def _follow(
        self, machine: GuestMachine, task: TaskPlan, guest: GuestPlan, job: GuestJob, centre: OwnCentre
    ) -> SlotEnding | None:
        """See to the machine until its job has ended: None then, and else how all of it ends."""
        every_s = max(guest.checkpoint_s, self._needs.checkpoint_s)
        # Not all tasks of a host at once: the first one comes after a while that chance decides.
        due_s = time.monotonic() + every_s + random.uniform(0, every_s)
        triggers = self._triggers(guest, job, centre)
        self._care.begin()
        self._since_s = time.monotonic()
        while centre.end is None:
            self._care.refuse_to_go_on()
            await self.on_step()
            state = await self._care.step(machine)
            self._take_time(state)
            self._tell(machine, task, centre, triggers)
            if triggers is not None and (ending := triggers.look(self._progress.runtime_s)) is not None:
                return ending
            if state is VmState.RUNNING and guest.checkpoint_s and time.monotonic() >= due_s and self._turn.take():
                try:
                    await self._care.unless_ending(self._checkpoint(machine))
                finally:
                    self._turn.give_back()
                    due_s = time.monotonic() + every_s
            await self._wakeup.sleep(STEP_S)
        return None

    def _triggers(self, guest: GuestPlan, job: GuestJob, centre: OwnCentre) -> Triggers | None:
        if guest.shared is None:
            return None

        def upload(name: str, entry: OutputEntry) -> str:
            return self._tasks.place_early(guest, name, self._host.content(job, entry))

        return Triggers(guest.shared, guest.outputs, centre, self._link.outgoing, upload)

    async def _take_early(self, task: TaskPlan, guest: GuestPlan, job: GuestJob, centre: OwnCentre) -> None:
        """Put the outputs where they belong that have come before an end that the job did not make itself."""
        early = ((name, centre.early(name)) for name in guest.outputs)
        found = {name: self._host.content(job, entry) for name, entry in early if entry is not None}
        await asyncio.to_thread(self._tasks.place, task, guest, found)

    def _tell(self, machine: GuestMachine, task: TaskPlan, centre: OwnCentre, triggers: Triggers | None) -> None:
        """Tell the client how far it is, and people what is in the way."""
        held = centre.holding
        self._progress.status.other_pid = machine.pid
        if triggers is not None:
            fraction = triggers.fraction(task.fraction_done, self._progress.runtime_s)
        else:
            fraction = self._tasks.fraction(task, centre)
        self._progress.look(fraction)
        trouble = centre.trouble or (plain(held.trouble) if held is not None else "")
        if trouble != self._trouble:
            log.warning("the job in the guest waits: %s", trouble or "no more")
        self._trouble = trouble

    def _take_time(self, state: VmState) -> None:
        now_s = time.monotonic()
        if state is VmState.RUNNING:
            self._progress.runtime_s += now_s - self._since_s
        self._since_s = now_s

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
        self._care.got_on()
        self.on_progress()
        self._progress.checkpoint()
        log.info("%s is written, in %.1f s", name, time.monotonic() - began_s)

    async def _conclude(self, task: TaskPlan, guest: GuestPlan, job: GuestJob, end: GuestJobEnd) -> SlotEnding | None:
        """Put the outputs where they belong, and say how all of it ends; None where the next task comes."""
        shared = guest.shared or SharedPlan()
        wanted = (STATUS, STDOUT, STDERR, *guest.outputs, *filter(None, [shared.completion]))
        found = {name: self._host.output(job, end, name) for name in wanted}
        lacking = await asyncio.to_thread(self._tasks.place, task, guest, found)
        where = f"{task.application} (line {task.line} of the job file)"
        status = status_of(found[STATUS])
        if (said := found.get(shared.completion)) is not None:
            return ending_of(said if isinstance(said, bytes) else said.read_bytes()[:_MOST_OF_A_TRIGGER])
        if end.outcome is not Outcome.DONE or status is None:
            return finished(ExitCode.CHILD_FAILED, f"{where} did not end well in its guest: {plain(end.cause)}")
        if status != 0:
            return finished(ExitCode.CHILD_FAILED, f"{where} ended with status {status}; {_last_line(found[STDERR])}")
        if lacking and guest.shared is None:
            return finished(ExitCode.NO_OUTPUT, f"{where} has not made {', '.join(lacking)}")
        log.info("%s has ended well, in attempt %d", task.application, end.attempt)
        return None

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


_MOST_OF_A_TRIGGER = 16 << 10


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
