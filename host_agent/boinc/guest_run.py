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
from typing import NamedTuple

from broker.daemon.wakeup import Wakeup
from host_agent.boinc.checkpoint_turn import CheckpointTurn
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.endings import ExitCode, SlotEnding, finished
from host_agent.boinc.guest_care import STEP_S, GuestCare
from host_agent.boinc.guest_machine import GuestMachine
from host_agent.boinc.guest_machines import GuestMachines
from host_agent.boinc.guest_needs import GuestNeeds
from host_agent.boinc.guest_tasks import STATUS, STDERR, STDOUT, GuestTasks, beginning_of, last_line, status_of
from host_agent.boinc.plan import GuestPlan, RunPlan, SharedPlan, TaskPlan
from host_agent.boinc.progress import Progress
from host_agent.boinc.trickles_down import TricklesDown
from host_agent.boinc.triggers import Triggers, ending_of
from host_agent.errors import GuestSilent, HostError, ImageError, Interrupted, UnknownVm
from host_agent.own_centre.guest_job import GuestJob, GuestJobEnd
from host_agent.own_centre.lone_host import LoneHost
from host_agent.own_centre.own_centre import OwnCentre
from schemas.codec import clip
from schemas.jobs import TELLS, Outcome
from schemas.plain_text import plain
from schemas.vms import VmState

log = logging.getLogger(__name__)

#: How long it may take to end machines that are saved, or killed, or never were to be, seconds.
OFF_S = 10.0
#: How long what is on its way to the project holds up an end, seconds.
SENT_S = 10.0
#: What is told of a guest's trouble, characters, and how often, seconds.
_MOST_OF_TROUBLE, TROUBLE_S = 300, 10.0


class GuestWork(NamedTuple):
    """One task at work in a guest."""

    number: int
    task: TaskPlan
    guest: GuestPlan
    job: GuestJob
    machine: GuestMachine
    centre: OwnCentre


class GuestRun:
    """See the module. ``open`` first, ``close`` last; ``run`` for one task after another."""

    def __init__(
        self,
        plan: RunPlan,
        host: LoneHost,
        tasks: GuestTasks,
        progress: Progress,
        link: ClientLink,
        needs: GuestNeeds,
        turn: CheckpointTurn,
        wakeup: Wakeup,
    ) -> None:
        self._plan, self._slot = plan, tasks.slot
        self._host, self._tasks, self._progress, self._link = host, tasks, progress, link
        host.refuse = tasks.refuse = self._refuse
        self._is_open = self._is_ending = False
        self._needs, self._turn, self._wakeup = needs, turn, wakeup
        self._care = GuestCare(host, link, wakeup)
        host.on_change = wakeup.wake
        self._machines = GuestMachines(host, needs, plan.machines)
        self._since_s = time.monotonic()
        self._trickles: TricklesDown | None = None
        #: The VM and the job of the task that ended last, until that is counted.
        self._done_with: tuple[str, GuestJob] | None = None
        self._trouble, self._troubled_s = "", 0.0
        #: Called in each step: what else there is to be seen to.
        self.on_step: Callable[[], Awaitable[None]] = _nothing
        #: Called when a machine has got on.
        self.on_progress: Callable[[], None] = lambda: None

    @property
    def cpu_s(self) -> float:
        """CPU time of all machines that is counted nowhere else, seconds."""
        return self._machines.cpu_s

    def processes(self) -> set[int]:
        """Give the processes of the machines."""
        return self._machines.processes()

    async def open(self) -> None:
        """Find what an earlier run has left. Raises HostError, OSError."""
        self._is_open = True
        await self._host.open()

    async def close(self, ending: SlotEnding) -> None:
        """End all machines, those too that were not looked at: removed where the task has come to its end, powered off
        where it does not get on, and else saved. Nothing of them runs then."""
        if not self._is_open:
            return
        self._is_ending = True
        try:
            if ending.is_for_good:
                await self._machines.each("removed", GuestMachine.delete)
            elif not ending.is_without_state:
                await self._machines.each("saved", self._save)
        finally:
            try:
                async with asyncio.timeout(OFF_S):
                    await self._host.control.poweroff_all()
            except (HostError, TimeoutError) as error:
                log.error("a virtual machine is not ended: %s", str(error) or f"not within {OFF_S:g} s")
            finally:
                await self._host.close()

    async def run(self, number: int) -> SlotEnding | None:
        """Carry out one task, the ``number``-th of the plan; None when it is done, and else how all of it ends. Raises
        HostError, OSError, and Interrupted where the client wants an end."""
        task = self._plan.tasks[number - 1]
        assert task.guest is not None
        guest = await asyncio.to_thread(self._tasks.settle, task, task.guest)
        job = self._tasks.job(task, guest, number)
        machine = await self._care.unless_ending(self._machines.have(guest))
        centre = await self._host.order(machine.vm, job, most_bytes=self._needs.output_bytes)
        work = GuestWork(number, task, guest, job, machine, centre)
        try:
            ending = await self._carry_out(work)
        except GuestSilent:
            await machine.doubt_checkpoint()
            raise
        if ending is None:
            await self._put_by(work)
        self._done_with = machine.vm, job
        return ending

    async def forget_done(self) -> None:
        """The task that ended last is counted: let go of what was kept of its job."""
        if self._done_with is not None:
            done_with, self._done_with = self._done_with, None
            await self._host.forget(*done_with)

    async def _carry_out(self, work: GuestWork) -> SlotEnding | None:
        if work.centre.end is None:
            await self._care.unless_ending(work.machine.up())
            ending = await self._follow(work)
            if ending is not None:
                await self._take_early(work)
                return ending
        assert work.centre.end is not None
        return await self._conclude(work, work.centre.end)

    async def _put_by(self, work: GuestWork) -> None:
        """A task has ended. Its machine, if it is wanted again, is kept as it is; it runs on for the next task only."""
        later = [task.guest.name if task.guest is not None else "" for task in self._plan.tasks[work.number :]]
        name = work.guest.name
        if name not in later or (await self._checkpoint(work.machine) and later[0] != name):
            await work.machine.off()
        elif later[0] != name:
            await work.machine.pause()

    async def _save(self, machine: GuestMachine) -> None:
        """Save a machine, and count what it has done: it goes on from there."""
        if await machine.save():
            self._progress.checkpoint()
            if self._trickles is not None:
                self._trickles.kept()
            log.info("the virtual machine is saved")

    async def _follow(self, work: GuestWork) -> SlotEnding | None:
        """See to the machine until its job has ended: None then, and else how all of it ends."""
        every_s = max(work.guest.checkpoint_s, self._needs.checkpoint_s)
        # Not all tasks of a host at once: the first one comes after a while that chance decides.
        due_s = time.monotonic() + every_s + random.uniform(0, every_s)
        shared, heard = work.guest.shared, work.centre.heard
        triggers, self._trickles = None, TricklesDown(self._slot, heard)
        if shared is not None:
            triggers = Triggers(shared, work.guest.outputs, heard, self._link.outgoing, self._slot)
        self._care.begin()
        self._since_s, shown = time.monotonic(), 0
        while work.centre.end is None:
            self._care.demand_no_end()
            await self.on_step()
            state = await self._care.step(work.machine, work.centre)
            if work.machine.pid != shown:
                shown = work.machine.pid
                await self._show(work)
            self._take_time(state)
            self._tell(work, triggers)
            self._trickles.step()
            if triggers is not None and (ending := await self._heed(work, triggers)) is not None:
                return ending
            is_due = work.guest.checkpoint_s and time.monotonic() >= due_s
            if state is VmState.RUNNING and is_due and self._turn.take():
                try:
                    await self._care.unless_ending(self._checkpoint(work.machine))
                finally:
                    self._turn.give_back()
                    due_s = time.monotonic() + every_s
            await self._wakeup.sleep(STEP_S)
        return None

    async def _heed(self, work: GuestWork, triggers: Triggers) -> SlotEnding | None:
        """Do what the job asks for by its files; give how all of it ends, once it does. Raises ImageError, OSError."""
        features = work.centre.features
        if features is not None and TELLS not in features:
            raise ImageError("the agent in the image is too old for a job that speaks by files: make the image anew")
        for name, entry in triggers.due_uploads():
            content = self._host.content(work.job, entry)
            triggers.note_upload(name, await asyncio.to_thread(self._tasks.place_early, work.guest, name, content))
        return triggers.look(self._progress.runtime_s)

    async def _take_early(self, work: GuestWork) -> None:
        """Put the outputs where they belong that have come before an end that the job did not make itself."""
        early = ((name, work.centre.heard.early(name)) for name in work.guest.outputs)
        found = {name: self._host.content(work.job, entry) for name, entry in early if entry is not None}
        await asyncio.to_thread(self._tasks.place, work.task, work.guest, found, work.number)

    def _tell(self, work: GuestWork, triggers: Triggers | None) -> None:
        """Tell the client how far it is, and people what is in the way."""
        centre, held = work.centre, work.centre.holding
        self._progress.status.other_pid = work.machine.pid
        if triggers is not None:
            fraction = triggers.fraction(work.task.fraction_done, self._progress.runtime_s)
        else:
            fraction = self._tasks.fraction(work.task, centre)
        self._progress.look(fraction)
        trouble = centre.trouble or (plain(clip(held.trouble, _MOST_OF_TROUBLE)) if held is not None else "")
        if trouble != self._trouble and time.monotonic() - self._troubled_s > TROUBLE_S:
            self._troubled_s = time.monotonic()
            log.warning("the job in the guest waits: %s", trouble or "no more")
            self._trouble = trouble

    async def _show(self, work: GuestWork) -> None:
        """Tell the client what it may show the volunteer: a machine that has begun anew may have other ports."""
        ports = await work.machine.ports()
        has_page = work.guest.has_page and ports.forwards
        self._link.show(ports.forwards[0][0] if has_page else None, ports.screen)

    def _take_time(self, state: VmState) -> None:
        now_s = time.monotonic()
        if state is VmState.RUNNING:
            self._progress.runtime_s += now_s - self._since_s
        self._since_s = now_s

    async def _checkpoint(self, machine: GuestMachine) -> bool:
        """Keep the machine as it is; whether it is kept. What comes between is told, and the last one stands."""
        if self._host.hypervisor.capabilities.snapshots is None:
            return False
        began_s = time.monotonic()
        try:
            name = await machine.checkpoint()
        except (Interrupted, UnknownVm):
            raise
        except (HostError, OSError) as error:
            with contextlib.suppress(HostError):
                last = await machine.checkpoints.last()
                log.error("no checkpoint: %s; %s stands", error, last or "none is there, and the beginning")
            return False
        self._care.got_on()
        if self._trickles is not None:
            self._trickles.kept()
        self.on_progress()
        self._progress.checkpoint()
        log.info("%s is written, in %.1f s", name, time.monotonic() - began_s)
        return True

    async def _conclude(self, work: GuestWork, end: GuestJobEnd) -> SlotEnding | None:
        """Put the outputs where they belong, and say how all of it ends; None where the next task comes."""
        task, guest = work.task, work.guest
        shared = guest.shared or SharedPlan()
        wanted = (STATUS, STDOUT, STDERR, *guest.outputs, *filter(None, [shared.completion]))
        await _send_all(self._link, self._wakeup)
        found = {name: self._host.output(work.job, end, name) for name in wanted}
        lacking = await asyncio.to_thread(self._tasks.place, task, guest, found, work.number)
        where = f"{task.application} (line {task.line} of the job file)"
        status = status_of(found[STATUS])
        if (said := found.get(shared.completion)) is not None:
            return ending_of(beginning_of(said, _MOST_OF_A_TRIGGER))
        if end.outcome is not Outcome.DONE or status is None:
            cause = plain(clip(end.cause, _MOST_OF_TROUBLE))
            return finished(ExitCode.CHILD_FAILED, f"{where} did not end well in its guest: {cause}")
        if status != 0:
            return finished(ExitCode.CHILD_FAILED, f"{where} ended with status {status}; {last_line(found[STDERR])}")
        if lacking and guest.shared is None:
            return finished(ExitCode.NO_OUTPUT, f"{where} has not made {', '.join(lacking)}")
        log.info("%s has ended well, in attempt %d", task.application, end.attempt)
        return None

    def _refuse(self) -> None:
        """In a thread: break off what takes long when the client wants an end. An end that is at work goes on."""
        if self._link.will.must_end and not self._is_ending:
            raise Interrupted("the client wants an end")


_MOST_OF_A_TRIGGER = 16 << 10


async def _nothing() -> None:
    return None


async def _send_all(link: ClientLink, wakeup: Wakeup) -> None:
    """Let the client take what is on its way to the project, for a moment."""
    deadline = time.monotonic() + SENT_S
    while link.has_client and not link.outgoing.is_idle and time.monotonic() < deadline:
        await wakeup.sleep(STEP_S)
