"""Programs of a job file, made of a plan and started on the volunteer's machine."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from broker.vm_mark import MARK
from host_agent.boinc import frozen
from host_agent.boinc.archives import NO_ROOM
from host_agent.boinc.arguments import Arguments
from host_agent.boinc.command_words import MOST_BYTES, MOST_WORDS, expand, split
from host_agent.boinc.family import OF_DAEMON
from host_agent.boinc.init_data import InitData
from host_agent.boinc.plan import TaskPlan
from host_agent.boinc.signed_files import SignedFiles
from host_agent.boinc.slot_names import SlotNames, open_plain
from host_agent.errors import BadName, JobFileError

log = logging.getLogger(__name__)

#: Niceness by priority, from lowest to highest.
_NICENESS = {1: 19, 2: 10, 3: 0, 4: -10, 5: -16}


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
    """Starts programs in the slot."""

    def __init__(
        self, names: SlotNames, signed: SignedFiles, data: InitData, arguments: Arguments, *, is_signed_job: bool
    ) -> None:
        """``is_signed_job``: the job file is the project's own, and may decide what a signed program loads."""
        self._names, self._signed, self._data, self._arguments = names, signed, data, arguments
        self._is_signed_job = is_signed_job
        self._slot = names.slot
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def check(self, task: TaskPlan) -> Path:
        """Give the program of a task. Raises JobFileError where it is not there, or may not be run here; OSError where
        there is no room for looking."""
        with _in_job_file(task, "application"):
            try:
                path = self._signed.program(task.application)
            except BadName as error:
                raise BadName(f"{task.application} {error}") from error
        if task.environment and not self._is_signed_job:
            text = "only a signed job file sets an environment: put it among the files of the application's version"
            raise JobFileError(task.line, "setenv", text)
        return path

    def start(self, task: TaskPlan) -> TaskProgram:
        """Start the program of a task. Raises JobFileError where it cannot be, OSError where there is no room."""
        command = [str(self.check(task)), *self._words(task)]
        directory = self._directory(task)
        with contextlib.ExitStack() as closing:
            stdin = closing.enter_context(self._source(task))
            stdout = closing.enter_context(self._target(task, "stdout_filename", task.stdout))
            stderr = closing.enter_context(self._target(task, "stderr_filename", task.stderr))
            with _in_job_file(task, "application"):
                process = subprocess.Popen(
                    command,
                    cwd=directory,
                    env=self._environment(task),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
        self._running[process.pid] = process
        self._give_way(task, process.pid)
        log.info("started: %s (process %d)", task.application, process.pid)
        return TaskProgram(task, process)

    def bury(self) -> None:
        """Take note of who has ended."""
        self._running = {pid: process for pid, process in self._running.items() if process.poll() is None}

    def _words(self, task: TaskPlan) -> list[str]:
        line = self._expanded(task, "command_line", task.command_line)
        words = [*split(line), *(self._arguments.passed_on if task.appends_arguments else ())]
        if len(words) > MOST_WORDS or len(line) > MOST_BYTES:
            text = f"{len(words)} words, {len(line)} characters; at most {MOST_WORDS} words and {MOST_BYTES} characters"
            raise JobFileError(task.line, "command_line", text)
        return words

    def _directory(self, task: TaskPlan) -> Path:
        directory = self._slot / (self._expanded(task, "exec_dir", task.directory) or ".")
        if self._names.has_client and not self._names.is_inside(directory):
            raise JobFileError(task.line, "exec_dir", f"{task.directory}: leads out of the slot directory")
        return directory

    def _expanded(self, task: TaskPlan, tag: str, text: str) -> str:
        data, arguments = self._data, self._arguments
        device = data.gpu_device_num if data.gpu_device_num >= 0 else arguments.device
        macros = {
            "$PROJECT_DIR": data.project_dir,
            "$NTHREADS": str(arguments.threads(data.ncpus)),
            "$PWD": str(self._slot),
            "$GPU_DEVICE_NUM": str(device) if device >= 0 else "",
        }
        with _in_job_file(task, tag):
            return expand(text, macros, lambda name: str(self._names.source(name)))

    def _environment(self, task: TaskPlan) -> dict[str, str]:
        """Give what a program gets: only what its job file says, where that says anything."""
        mark = {MARK: str(self._slot)} | (dict([OF_DAEMON.split("=")]) if task.is_daemon else {})
        if not task.environment:
            return frozen.environment() | mark
        given = (self._expanded(task, "setenv", one).partition("=") for one in task.environment)
        return {name: value for name, _, value in given} | mark

    @contextlib.contextmanager
    def _source(self, task: TaskPlan) -> Iterator[int]:
        with _in_job_file(task, "stdin_filename"):
            path = self._names.source(task.stdin) if task.stdin else Path(os.devnull)
            descriptor = open_plain(path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _target(self, task: TaskPlan, tag: str, name: str) -> Iterator[int | None]:
        if not name:
            yield None
            return
        with _in_job_file(task, tag):
            descriptor = open_plain(self._names.target(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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


@contextlib.contextmanager
def _in_job_file(task: TaskPlan, tag: str) -> Iterator[None]:
    """Have what is wrong be the job file's fault, with its line; a lack of room is nobody's, and passes."""
    try:
        yield
    except BadName as error:
        raise JobFileError(task.line, tag, str(error)) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        where = f": {error.filename}" if error.filename else ""
        raise JobFileError(task.line, tag, f"{task.application}: {error.strerror or error}{where}") from error
    except ValueError as error:
        raise JobFileError(task.line, tag, f"{task.application}: {error}") from error


def last_number(path: Path, most_bytes: int = 32) -> float | None:
    """Give the last number at the end of a file; None where there is none."""
    with contextlib.suppress(OSError, BadName), os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
        for word in reversed(file.read(most_bytes).split()):
            with contextlib.suppress(ValueError):
                return float(word)
    return None
