"""Carries out a plan of programs under BOINC: daemons beside tasks, tasks one after another, as ``wrapper`` does it.

Each step looks what the client wants, what has ended, and how far things are; a change, or the end of a child, brings
the next step at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time
from pathlib import Path

import msgspec

from broker.daemon.wakeup import Wakeup
from broker.errors import BrokerError
from host_agent.boinc.archive_work import ArchiveWork
from host_agent.boinc.archives import note_first_files
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.endings import ExitCode, SlotEnding, away, finished, put_off, wanted_end
from host_agent.boinc.family import Family, Orphans
from host_agent.boinc.guest_run import GuestRun
from host_agent.boinc.plan import RunPlan, TaskPlan
from host_agent.boinc.programs import Programs, TaskProgram, last_number
from host_agent.boinc.progress import Progress
from host_agent.boinc.retries import Retries
from host_agent.boinc.slot_names import SlotNames
from host_agent.errors import (
    BadArchive,
    BadName,
    GuestSilent,
    HostError,
    HypervisorError,
    ImageError,
    Interrupted,
    JobFileError,
    JobRefused,
)

log = logging.getLogger(__name__)

#: Between two steps where nothing happens, and between two looks at who is to end, seconds.
STEP_S, LOOK_S = 0.5, 0.1
#: How long programs may take to end when they are asked to, seconds; then they are killed.
END_S = 10.0
#: A disk that is full, or a process that does not obey, is given so long, seconds.
PUT_OFF_S = 300
#: An end of the machine's reaches programs and us one after another, within this time, seconds; and by these signals.
SAME_END_S = 2.0
_ENDS_ALL = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL}
#: A task's own checkpoints are passed on no more often than this, seconds.
CHECKPOINT_S = 1.0


class WrapperRun:
    """See the module. ``run`` once, in the main thread."""

    def __init__(
        self,
        plan: RunPlan,
        names: SlotNames,
        programs: Programs,
        progress: Progress,
        link: ClientLink,
        family: Family,
        wakeup: Wakeup,
        *,
        disk_bytes: float = 0.0,
        holds_up_softly: bool = False,
        guests: GuestRun | None = None,
    ) -> None:
        self._plan, self._names, self._programs = plan, names, programs
        self._progress, self._link = progress, link
        self._archives = ArchiveWork(plan, names, link, disk_bytes)
        self._holds_up_softly = holds_up_softly
        self._slot, self._family = names.slot, family
        self._wakeup, self._guests = wakeup, guests
        self._orphans = Orphans()
        if guests is not None:
            guests.on_step = self._beside_guests
        self._daemons: list[TaskProgram] | None = None
        #: None: some stand still, and some may not.
        self._is_held_up: bool | None = False
        self._trouble = ""
        self._since_s = time.monotonic()
        self._retries = Retries(self._slot)
        if guests is not None:
            guests.on_progress = self._retries.forget

    def wake(self) -> None:
        """Something has changed: take the next step now. Of the loop's own thread."""
        self._wakeup.wake()

    async def run(self) -> SlotEnding:
        """Carry the plan out, as far as the client lets us; give how it ended. Nobody is left running."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._on_child)
        ending: SlotEnding | None = None
        try:
            ending = await self._judged()
            return ending
        finally:
            try:
                await self._close_guests(ending or put_off(PUT_OFF_S, "the agent was broken off"))
                if self._daemons and ending is not None and not ending.is_for_good:
                    await self._end_all()
            finally:
                loop.remove_signal_handler(signal.SIGCHLD)
                await self._leave_nobody()

    async def _close_guests(self, ending: SlotEnding) -> None:
        """End the machines. What goes wrong with that does not change how the task ends."""
        if self._guests is not None:
            try:
                await self._guests.close(ending)
            except (HostError, BrokerError, OSError) as error:
                log.error("the virtual machines are not left as they should be: %s", error)

    async def _judged(self) -> SlotEnding:
        try:
            return await self._run()
        except (JobFileError, JobRefused) as error:
            return finished(ExitCode.JOB_FILE, str(error))
        except (BadArchive, BadName, ImageError) as error:
            return finished(ExitCode.INIT_FAILURE, str(error))
        except Interrupted as error:
            return self._wanted_end() or away(str(error))
        except (RuntimeError, MemoryError) as error:
            return put_off(PUT_OFF_S, f"the machine has no room for it: {error!r}")
        except GuestSilent as error:
            ending = put_off(self._retries.next_delay_s(), str(error))
            return msgspec.structs.replace(ending, is_without_state=True)
        except (HostError, BrokerError) as error:
            return put_off(self._retries.next_delay_s(), str(error))
        except OSError as error:
            return put_off(PUT_OFF_S, f"{error.filename or self._slot}: {error.strerror or error}")
        except Exception as error:  # a task is never burnt for a fault of ours
            log.exception("not foreseen")
            return put_off(self._retries.next_delay_s(), f"the agent did not foresee this: {error!r}")

    async def _run(self) -> SlotEnding:
        await self._family.kill()  # what a run that was killed has left
        await self._archives.unpack()
        if self._plan.zips:
            note_first_files(self._slot)
        for task in self._plan.runs:
            self._programs.check(task)
        self._progress.take_up()
        if self._guests is not None:
            await self._guests.open()
        for number, task in enumerate(self._plan.tasks[self._progress.done :], self._progress.done + 1):
            ending = await self._run_one(number, task)
            if ending is not None:
                return ending
            await self._family.kill(spares_daemons=True)
            self._progress.task_done()
            if self._guests is not None:
                await self._guests.forget_done()
        await self._end_all()
        for output in self._plan.zips:
            await self._archives.pack(output)
        self._progress.look(is_due=True)
        return finished()

    async def _run_one(self, number: int, task: TaskPlan) -> SlotEnding | None:
        if task.guest is None or self._guests is None:
            return await self._run_task(task)
        return await self._guests.run(number)

    async def _beside_guests(self) -> None:
        """See to the programs beside a task in a virtual machine."""
        if self._plan.runs:
            self._orphans.bury()
        if self._daemons is None and self._plan.daemons:
            self._daemons = [self._programs.start(daemon) for daemon in self._plan.daemons]
        if self._plan.daemons:
            await self._follow_suspension()

    async def _run_task(self, task: TaskPlan) -> SlotEnding | None:
        """Run one task; None when it is done, and else how all of it ends."""
        program: TaskProgram | None = None
        _forget_fraction(task, self._names)
        mark, marked_s = _mark(task, self._slot), 0.0
        while True:
            ending = self._wanted_end()
            if ending is not None:
                return await self._obey(ending)
            self._orphans.bury()
            await self._follow_suspension()
            if program is None and self._is_held_up is False:
                program = self._start(task)
            if program is not None:
                status = self._look_at(program)
                if _mark(task, self._slot) != mark and time.monotonic() - marked_s >= CHECKPOINT_S:
                    mark, marked_s = _mark(task, self._slot), time.monotonic()
                    self._progress.checkpoint()
                if status is not None:
                    return await self._wanted_soon(status) or _judged(task, status)
            await self._wakeup.sleep(STEP_S)

    def _start(self, task: TaskPlan) -> TaskProgram:
        if self._daemons is None:
            self._daemons = [self._programs.start(daemon) for daemon in self._plan.daemons]
        self._since_s = time.monotonic()
        return self._programs.start(task)

    def _look_at(self, program: TaskProgram) -> int | None:
        """Take the time and the progress of a task; give its exit status once it has ended, or has had its time."""
        self._take_time(program)
        task, status = program.task, program.exit_status
        self._progress.look(_fraction_of(task, self._slot), is_due=status is not None)
        if status is None and task.time_limit_s and program.elapsed_s >= task.time_limit_s:
            log.info("%s has run for its %g s: that is its success", task.application, task.time_limit_s)
            return 0
        return status

    def _wanted_end(self) -> SlotEnding | None:
        return wanted_end(self._link.will)

    async def _wanted_soon(self, status: int) -> SlotEnding | None:
        """Where a program was ended by what ends machines and services, ours may come a moment later: that is no
        failure of the program's."""
        deadline = time.monotonic() + SAME_END_S
        while -status in _ENDS_ALL and (ending := self._wanted_end()) is None and time.monotonic() < deadline:
            await self._wakeup.sleep(LOOK_S)
        return await self._obey(ending) if -status in _ENDS_ALL and (ending := self._wanted_end()) else None

    async def _obey(self, ending: SlotEnding) -> SlotEnding:
        """End programs as the client wants: what goes on later may end by itself, what is aborted is killed."""
        self._progress.look(is_due=True)
        if ending.status != ExitCode.ABORTED_BY_CLIENT:
            await self._end_all()
        return ending

    async def _follow_suspension(self) -> None:
        """Have all stand still while the client wants it, and go on when it does not; who does not is tried again."""
        wanted = self._link.will.is_suspended
        if wanted == self._is_held_up:
            return
        self._is_held_up = None  # whatever comes of it, the next step sees to it
        try:
            if wanted:
                await self._family.hold_up(softly=self._holds_up_softly)
            else:
                self._family.let_go_on()
        except HypervisorError as error:
            if str(error) != self._trouble:
                log.error("%s", error)
            self._trouble = str(error)
            return
        self._is_held_up, self._since_s = wanted, time.monotonic()
        log.info("suspended" if wanted else "resumed")

    def _take_time(self, program: TaskProgram) -> None:
        """Count the time since the last look, unless the task stood still in it."""
        now_s = time.monotonic()
        if not self._is_held_up:
            self._progress.runtime_s += now_s - self._since_s
            program.elapsed_s += now_s - self._since_s
        self._since_s = now_s

    async def _end_all(self) -> None:
        """Ask who runs to end, and wait a while; whoever does not is killed."""
        members = self._family.members()
        for number in (signal.SIGTERM, signal.SIGCONT):  # what stands still goes on for it
            self._family.send(members, number)
        deadline = time.monotonic() + END_S
        while self._family.members() and time.monotonic() < deadline:
            await self._wakeup.sleep(LOOK_S)
        await self._leave_nobody()

    async def _leave_nobody(self) -> None:
        try:
            await self._family.kill()
        except HypervisorError as error:
            log.error("%s", error)
        self._programs.bury()

    def _on_child(self) -> None:
        self._programs.bury()
        self._wakeup.wake()


def _judged(task: TaskPlan, status: int) -> SlotEnding | None:
    """Say how all of it ends as a task has ended with a status; None where the next task comes."""
    if status == 0:
        log.info("%s has ended well", task.application)
        return None
    how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
    return finished(ExitCode.CHILD_FAILED, f"{task.application} (line {task.line} of the job file) {how}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _forget_fraction(task: TaskPlan, names: SlotNames) -> None:
    """Remove what an earlier run has said of how much is done. Raises JobFileError."""
    if task.fraction_done:
        try:
            if task.fraction_done in names.kept:
                raise BadName("came out of an archive that the project has signed")
            (names.slot / task.fraction_done).unlink(missing_ok=True)
        except (OSError, BadName) as error:
            text = f"{task.fraction_done}: {getattr(error, 'strerror', '') or error}"
            raise JobFileError(task.line, "fraction_done_filename", text) from error


def _fraction_of(task: TaskPlan, slot: Path) -> float:
    told = last_number(slot / task.fraction_done) if task.fraction_done else None
    return min(max(told, 0.0), 1.0) if told is not None and not math.isnan(told) else 0.0


def _mark(task: TaskPlan, slot: Path) -> int:
    """Say when a task has made a checkpoint of its own last, in whatever clock; 0: never."""
    if task.checkpoint:
        with contextlib.suppress(OSError):
            return (slot / task.checkpoint).stat().st_mtime_ns
    return 0
