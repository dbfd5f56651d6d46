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

from broker.daemon.wakeup import Wakeup
from host_agent.boinc.archives import chosen, note_first_files, pack, unpack_once
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.endings import ExitCode, SlotEnding, aborted, away, finished, put_off
from host_agent.boinc.family import Family
from host_agent.boinc.plan import RunPlan, TaskPlan, ZipOutput
from host_agent.boinc.programs import Programs, TaskProgram, last_number
from host_agent.boinc.progress import Progress
from host_agent.boinc.slot_names import SlotNames
from host_agent.errors import BadArchive, BadName, HypervisorError, Interrupted, JobFileError

log = logging.getLogger(__name__)

#: Between two steps where nothing happens, and between two looks at who is to end, seconds.
STEP_S, LOOK_S = 0.5, 0.1
#: How long programs may take to end when they are asked to, seconds; then they are killed.
END_S = 10.0
#: A disk that is full, or a process that does not obey, is given so long, seconds.
PUT_OFF_S = 300
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
        *,
        disk_bytes: float = 0.0,
        holds_up_softly: bool = False,
    ) -> None:
        self._plan, self._names, self._programs = plan, names, programs
        self._progress, self._link = progress, link
        self._disk_bytes, self._holds_up_softly = disk_bytes, holds_up_softly
        self._slot, self._family = names.slot, Family(names.slot)
        self._wakeup = Wakeup()
        self._daemons: list[TaskProgram] | None = None
        self._is_held_up, self._trouble = False, ""
        self._since_s = time.monotonic()

    def wake(self) -> None:
        """Something has changed: take the next step now. Of the loop's own thread."""
        self._wakeup.wake()

    async def run(self) -> SlotEnding:
        """Carry the plan out, as far as the client lets us; give how it ended. Nobody is left running."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._on_child)
        try:
            return await self._run()
        except JobFileError as error:
            return finished(ExitCode.JOB_FILE, str(error))
        except (BadArchive, BadName) as error:
            return finished(ExitCode.INIT_FAILURE, str(error))
        except HypervisorError as error:
            return put_off(PUT_OFF_S, str(error))
        except OSError as error:
            return put_off(PUT_OFF_S, f"{error.filename or self._slot}: {error.strerror or error}")
        finally:
            loop.remove_signal_handler(signal.SIGCHLD)
            await self._leave_nobody()

    async def _run(self) -> SlotEnding:
        await self._family.kill()  # what a run that was killed has left
        try:
            await asyncio.to_thread(self._unpack)
        except Interrupted:
            return self._wanted_end() or away("told to end while archives were unpacked")
        if self._plan.zips:
            note_first_files(self._slot)
        for task in self._plan.runs:
            self._programs.check(task)
        self._progress.take_up()
        for task in self._plan.tasks[self._progress.done :]:
            ending = await self._run_task(task)
            if ending is not None:
                return ending
            await self._family.kill([daemon.pid for daemon in self._daemons or ()])
            self._progress.task_done()
        await self._end_all()
        for output in self._plan.zips:
            await self._pack(output)
        self._progress.look(is_due=True)
        return finished()

    def _unpack(self) -> None:
        """In a thread."""
        archives = [(name, self._names.source(name)) for name in self._plan.unzip]
        unpack_once(self._slot, archives, self._disk_bytes, lambda: self._link.will.must_end)

    async def _pack(self, output: ZipOutput) -> None:
        target, files = self._names.target(output.archive), chosen(self._slot, output)
        await asyncio.to_thread(pack, self._slot, output.archive, files, target)
        log.info("packed %d files into %s", len(files), output.archive)

    async def _run_task(self, task: TaskPlan) -> SlotEnding | None:
        """Run one task; None when it is done, and else how all of it ends."""
        program: TaskProgram | None = None
        if task.fraction_done:
            (self._slot / task.fraction_done).unlink(missing_ok=True)  # an earlier run's word
        mark, marked_s = self._mark(task), 0.0
        while True:
            ending = self._wanted_end()
            if ending is not None:
                return await self._obey(ending)
            await self._follow_suspension()
            if program is None and not self._is_held_up:
                program = self._start(task)
            if program is not None:
                status = self._look_at(program)
                if self._mark(task) != mark and time.monotonic() - marked_s >= CHECKPOINT_S:
                    mark, marked_s = self._mark(task), time.monotonic()
                    self._progress.checkpoint()
                if status is not None:
                    return _judged(task, status)
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
        self._progress.look(self._fraction_of(task), is_due=status is not None)
        if status is None and task.time_limit_s and program.elapsed_s >= task.time_limit_s:
            log.info("%s has run for its %g s: that is its success", task.application, task.time_limit_s)
            return 0
        return status

    def _wanted_end(self) -> SlotEnding | None:
        will = self._link.will
        if will.is_aborting:
            return aborted()
        if will.is_quitting:
            return away("told to end; goes on later from the last checkpoint")
        return away("the BOINC client is gone; goes on when it is back") if will.is_gone else None

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
        try:
            await (self._family.hold_up(softly=self._holds_up_softly) if wanted else self._family.let_go_on())
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

    def _fraction_of(self, task: TaskPlan) -> float:
        told = last_number(self._slot / task.fraction_done) if task.fraction_done else None
        return min(max(told, 0.0), 1.0) if told is not None and not math.isnan(told) else 0.0

    def _mark(self, task: TaskPlan) -> int:
        """Say when a task has made a checkpoint of its own last, in whatever clock; 0: never."""
        if task.checkpoint:
            with contextlib.suppress(OSError):
                return (self._slot / task.checkpoint).stat().st_mtime_ns
        return 0

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
