"""Programs of a job file, run on the volunteer's machine: made of a plan, held up, let go on, ended.

Whatever a program starts belongs to it, in whatever session: it bears the mark of the slot, or is linked to what does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from broker.daemon.process_stat import read_stat
from broker.vm_mark import MARK
from host_agent.boinc import frozen
from host_agent.boinc.arguments import Arguments
from host_agent.boinc.command_words import MOST_BYTES, MOST_WORDS, expand, split
from host_agent.boinc.init_data import InitData
from host_agent.boinc.plan import TaskPlan
from host_agent.boinc.signed_files import SignedFiles
from host_agent.boinc.slot_files import resolve
from host_agent.errors import JobFileError
from host_agent.hypervisors.detached import all_processes, find_tree
from host_agent.hypervisors.process.signals import signal_until

log = logging.getLogger(__name__)

#: How long a program may take to end when it is asked to, seconds; then it is killed.
END_S = 10.0
#: Niceness by priority, from lowest to highest.
_NICENESS = {1: 19, 2: 10, 3: 0, 4: -10, 5: -16}
#: What the client puts before the libraries' path is for programs of BOINC's own.
_PROJECT_DIR = "$PROJECT_DIR"


class TaskProgram:
    """One that runs. ``elapsed_s`` counts no time in which it was held up."""

    def __init__(self, task: TaskPlan, process: subprocess.Popen[bytes]) -> None:
        self.task, self._process = task, process
        self.elapsed_s = 0.0

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """How it ended: below 0 by a signal; None while it runs."""
        return self._process.poll()


class Programs:
    """Starts programs in ``slot``, and holds all of them up, or ends them, together."""

    def __init__(self, slot: Path, data: InitData | None, arguments: Arguments, signed: SignedFiles) -> None:
        self._slot, self._data, self._arguments = slot.resolve(), data or InitData(), arguments
        #: What may be run here.
        self.signed = signed
        self._started: list[subprocess.Popen[bytes]] = []

    def check(self, task: TaskPlan) -> Path:
        """Give the program of a task. Raises JobFileError where it is not there, or may not be run here."""
        within = task.application.removeprefix(f"{_PROJECT_DIR}/")
        is_ours = within != task.application
        name = str(Path(self._data.project_dir or ".", within)) if is_ours else within
        path = resolve(self._slot, name)
        if not path.is_file():
            raise JobFileError(task.line, "application", f"{task.application}: there is no such file: {path}")
        if refusal := self.signed.refusal(name):
            raise JobFileError(task.line, "application", f"{task.application} is not run: {refusal}")
        return path.absolute()

    def start(self, task: TaskPlan) -> TaskProgram:
        """Start the program of a task. Raises JobFileError where it cannot be."""
        command = [str(self.check(task)), *self._words(task)]
        directory = self._expanded(task.directory) or "."
        with contextlib.ExitStack() as closing:
            stdin = closing.enter_context(self._opened(task, "stdin", task.stdin or os.devnull, os.O_RDONLY))
            stdout, stderr = (
                self._output(closing, task, tag, name)
                for tag, name in (("stdout", task.stdout), ("stderr", task.stderr))
            )
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self._slot / directory,
                    env=self._environment(task),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                text = f"{task.application} cannot be started in {self._slot / directory}: {error}"
                raise JobFileError(task.line, "application", text) from error
        self._started.append(process)
        self._give_way(task, process.pid)
        log.info("started: %s (process %d)", task.application, process.pid)
        return TaskProgram(task, process)

    def forget_fraction(self, task: TaskPlan) -> None:
        """Remove what an earlier run of a task said of how much is done."""
        if task.fraction_done:
            resolve(self._slot, task.fraction_done).unlink(missing_ok=True)

    async def hold_up(self) -> None:
        """Have all that belongs to the task stand still. Raises HypervisorError for what does not."""
        await signal_until(self._slot, None, signal.SIGTSTP if self._arguments.uses_tstp else signal.SIGSTOP, "Tt")

    async def let_go_on(self) -> None:
        """Let all go on."""
        await signal_until(self._slot, None, signal.SIGCONT, "RSDI")

    def ask_to_end(self) -> None:
        """Ask all to end; those that stand still go on for it."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            for pid in self.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    async def kill(self) -> None:
        """Leave nobody. Raises HypervisorError for what does not end."""
        await signal_until(self._slot, None, signal.SIGKILL, "")

    def bury(self) -> None:
        """Take note of who has ended, also of descendants whose parents are gone: they are our children now."""
        ours = {process.pid for process in self._started if process.poll() is None}
        for stat in all_processes():
            if stat.parent == os.getpid() and stat.is_dead and stat.pid not in ours:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(stat.pid, os.WNOHANG)

    def members(self) -> set[int]:
        """Find all processes that belong to the task."""
        return find_tree(self._slot, None)

    def cpu_s(self) -> float:
        """Add up the CPU time of all, and of those that have ended, seconds."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        stats = [read_stat(pid) for pid in self.members()]
        return ended.ru_utime + ended.ru_stime + sum(stat.family_cpu_s for stat in stats if stat is not None)

    def _words(self, task: TaskPlan) -> list[str]:
        line = self._expanded(task.command_line)
        words = [*split(line), *(self._arguments.passed_on if task.appends_arguments else ())]
        if len(words) > MOST_WORDS or len(line) > MOST_BYTES:
            text = f"{len(words)} words, {len(line)} characters; at most {MOST_WORDS} words and {MOST_BYTES} characters"
            raise JobFileError(task.line, "command_line", text)
        return words

    def _expanded(self, text: str) -> str:
        data, arguments = self._data, self._arguments
        device = data.gpu_device_num if data.gpu_device_num >= 0 else arguments.device
        macros = {
            _PROJECT_DIR: data.project_dir,
            "$NTHREADS": str(arguments.nthreads or max(1, round(data.ncpus))),
            "$PWD": str(self._slot),
            "$GPU_DEVICE_NUM": str(device) if device >= 0 else "",
        }
        return expand(text, macros, lambda name: str(resolve(self._slot, name)))

    def _environment(self, task: TaskPlan) -> dict[str, str]:
        """Give what a program gets: only what its job file says, where that says anything."""
        mark = {MARK: str(self._slot)}
        if not task.environment:
            return frozen.environment() | mark
        given = (self._expanded(one).partition("=") for one in task.environment)
        return {name: value for name, _, value in given} | mark

    def _output(self, closing: contextlib.ExitStack, task: TaskPlan, tag: str, name: str) -> int | None:
        if not name:
            return None
        return closing.enter_context(self._opened(task, tag, name, os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    @contextlib.contextmanager
    def _opened(self, task: TaskPlan, tag: str, name: str, flags: int) -> Iterator[int]:
        try:
            descriptor = os.open(resolve(self._slot, name), flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JobFileError(task.line, f"{tag}_filename", f"{name}: {error.strerror}: {error.filename}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _give_way(self, task: TaskPlan, pid: int) -> None:
        """Lower a program's priority; raising one is root's, and BOINC's client is not."""
        if not self._data.may_change_priority:
            return
        niceness = _NICENESS[self._data.process_priority or task.priority]
        with contextlib.suppress(OSError):
            if niceness > os.getpriority(os.PRIO_PROCESS, pid):
                os.setpriority(os.PRIO_PROCESS, pid, niceness)


def last_number(path: Path, most_bytes: int = 32) -> float | None:
    """Give the last number at the end of a file; None where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
        for word in reversed(file.read(most_bytes).split()):
            with contextlib.suppress(ValueError):
                return float(word)
    return None
