"""What a task of a job file is as the job of a guest, and where its files go. Files are named in the guest as the job
names them; the program's output is kept in files too, so that it comes whole however long it is and however it ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from broker import durable
from host_agent.boinc.arguments import Arguments
from host_agent.boinc.command_words import MOST_BYTES, MOST_WORDS, expand, split
from host_agent.boinc.init_data import InitData
from host_agent.boinc.plan import GuestPlan, TaskPlan
from host_agent.boinc.shared_directory import SharedDirectory
from host_agent.boinc.slot_names import SlotNames, open_plain
from host_agent.boinc.vbox_job import SHARED
from host_agent.errors import BadName, JobFileError
from host_agent.own_centre.guest_job import GivenFile, GuestJob
from host_agent.own_centre.own_centre import OwnCentre
from schemas.description import Output
from schemas.jobs import MOST_TOLD
from schemas.plain_text import plain

#: What the agent keeps in a job's directory: how the program ended, and what it printed.
STATUS, STDOUT, STDERR = "vc.status", "vc.stdout", "vc.stderr"
#: How far what was there before reaches in the files that a task's output is put behind.
_BEFORE = "host_agent_before.json"
#: Runs a program with its streams in files, and says how it ended; the outputs come whatever that is.
_SCRIPT = '"$0" "$@" {stdin} >{stdout} 2>{stderr}; echo $? >{status}'
_PIECE_BYTES = 1 << 20
_FRACTION_BYTES = 32


class GuestTasks:
    """See the module."""

    def __init__(self, names: SlotNames, data: InitData, arguments: Arguments) -> None:
        self._names, self._data, self._arguments = names, data, arguments
        self.slot = names.slot
        self._shared = SharedDirectory(names, arguments)
        #: Called between pieces of what takes long: raises what breaks it off.
        self.refuse: Callable[[], None] = lambda: None

    def settle(self, task: TaskPlan, guest: GuestPlan) -> GuestPlan:
        """Give the plan with all that goes in and comes out, as far as that is known only now. Blocking. Raises
        JobFileError, OSError."""
        return guest if guest.shared is None else self._shared.settle(guest, guest.shared, task.line)

    def fraction(self, task: TaskPlan, centre: OwnCentre) -> float:
        """Say how much is done, as the job says."""
        told = centre.heard.told(task.fraction_done) if task.fraction_done else None
        return fraction_in(told.content) if told is not None else 0.0

    def job(self, task: TaskPlan, guest: GuestPlan, number: int) -> GuestJob:
        """Make the job of a guest of the task that is the ``number``-th. Raises JobFileError, also where an output
        could not be put where it is to be; OSError."""
        for name in guest.outputs:
            with _naming(task, "copy_file_from_VM"):
                self._names.target(self._logical(guest, name))
        stdin = f"<{shlex.quote(task.stdin)}" if task.stdin else "</dev/null"
        script = _SCRIPT.format(stdin=stdin, stdout=STDOUT, stderr=STDERR, status=STATUS)
        return GuestJob(
            ref=f"local/task.{number}",
            executable="/bin/sh",
            arguments=("-c", script, self._program(task, guest), *self._words(task)),
            environment=self._environment(task),
            inputs=tuple(self._inputs(task, guest)),
            outputs=(
                Output(name=STATUS),
                *(Output(name=name, optional=True) for name in _outputs(guest)),
            ),
            tells=_tells(task, guest),
        )

    def place(
        self, task: TaskPlan, guest: GuestPlan, found: Mapping[str, bytes | Path | None], number: int
    ) -> list[str]:
        """Put the outputs of the ``number``-th task where the job wants them; done again, it is as done once. Gives the
        names of those that the task has not made. Raises JobFileError, OSError, and what ``refuse`` raises."""
        printed: dict[Path, list[bytes | Path]] = {}
        for tag, kept, name in (("stdout_filename", STDOUT, task.stdout), ("stderr_filename", STDERR, task.stderr)):
            if name:
                with _naming(task, tag):
                    printed.setdefault(self._names.target(name), []).append(found.get(kept) or b"")
        for target, contents in printed.items():
            with _naming(task, "stdout_filename"):
                self._append(number, target, contents)
        for name in guest.outputs:
            if (content := found.get(name)) is not None:
                with _naming(task, "copy_file_from_VM"):
                    self._write(self._names.target(self._logical(guest, name)), [content])
        return [name for name in guest.outputs if found.get(name) is None]

    def place_early(self, guest: GuestPlan, name: str, content: bytes | Path | None) -> str:
        """Put an output where it belongs before the end, and give its logical name; empty where it is none by which the
        client could be asked for it. Raises OSError."""
        logical = self._logical(guest, name)
        if content is None or "/" in logical or not self._shared.is_output(logical):
            return ""
        target = self._names.target(logical)
        # At once and whole: the client may be at it.
        if isinstance(content, bytes):
            durable.replace(target, content, mode=0o644)
        else:
            durable.copy(content, target, mode=0o644)
        return logical

    def _logical(self, guest: GuestPlan, name: str) -> str:
        return name if guest.shared is None else self._shared.logical(name)

    def _program(self, task: TaskPlan, guest: GuestPlan) -> str:
        is_file = guest.copies_application or guest.shared is not None
        return f"./{task.application.removeprefix('./')}" if is_file else task.application

    def _inputs(self, task: TaskPlan, guest: GuestPlan) -> list[GivenFile]:
        names = dict.fromkeys(guest.inputs, "copy_file_to_VM")
        if task.stdin:
            names.setdefault(task.stdin, "stdin_filename")
        if guest.copies_application:
            names[task.application.removeprefix("./")] = "application"
        return [self._given(task, guest, tag, name) for name, tag in names.items()]

    def _given(self, task: TaskPlan, guest: GuestPlan, tag: str, name: str) -> GivenFile:
        with _naming(task, tag):
            path = self._names.source(name if guest.shared is None else f"{SHARED}/{name}")
            os.close(open_plain(path, os.O_RDONLY))
            # What goes into a guest may be run there: it is not this machine's.
            return GivenFile(name=name, path=path, is_executable=True)

    def _words(self, task: TaskPlan) -> list[str]:
        line = self._expanded(task.command_line)
        words = [*split(line), *(self._arguments.passed_on if task.appends_arguments else ())]
        if len(words) > MOST_WORDS or len(line) > MOST_BYTES:
            text = f"{len(words)} words, {len(line)} characters; at most {MOST_WORDS} words and {MOST_BYTES} characters"
            raise JobFileError(task.line, "command_line", text)
        return words

    def _environment(self, task: TaskPlan) -> dict[str, str]:
        given = (self._expanded(one).partition("=") for one in task.environment)
        return {name: value for name, _, value in given}

    def _expanded(self, text: str) -> str:
        """Put in what macros stand for: a guest sees no directory of the volunteer's, and files by their names."""
        threads = self._arguments.threads(self._data.ncpus)
        macros = {"$PROJECT_DIR": ".", "$NTHREADS": str(threads), "$PWD": ".", "$GPU_DEVICE_NUM": ""}
        return expand(text, macros, lambda name: name)

    def _append(self, number: int, target: Path, contents: Sequence[bytes | Path]) -> None:
        """Put it behind what was there before this task, and nothing twice."""
        path = self._names.slot / _BEFORE
        before = _read_before(path)
        key = f"{number} {target}"
        if key not in before:
            before[key] = target.stat().st_size if target.exists() else 0
            durable.replace(path, msgspec.json.encode(before))
        self._write(target, contents, at=before[key])

    def _write(self, target: Path, contents: Sequence[bytes | Path], *, at: int = 0) -> None:
        """Write into a file from a place on, and nothing behind it, durably. Raises BadName, OSError, and what
        ``refuse`` raises."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(open_plain(target, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.truncate(at)
            file.seek(at)
            for content in contents:
                self._write_one(file, content)
            file.flush()
            os.fsync(file.fileno())

    def _write_one(self, file: BinaryIO, content: bytes | Path) -> None:
        if isinstance(content, bytes):
            file.write(content)
            return
        with content.open("rb") as source:
            while piece := source.read(_PIECE_BYTES):
                self.refuse()
                file.write(piece)


def _outputs(guest: GuestPlan) -> tuple[str, ...]:
    shared = guest.shared
    more = (shared.completion,) if shared is not None and shared.completion else ()
    return tuple(dict.fromkeys((STDOUT, STDERR, *guest.outputs, *more)))


def _tells(task: TaskPlan, guest: GuestPlan) -> tuple[str, ...]:
    """Name the files of which the host is told while the job runs; of outputs as many as there is room for."""
    speaks = (task.fraction_done, *(guest.shared.names + guest.outputs if guest.shared is not None else ()))
    return tuple(dict.fromkeys(name for name in speaks if name))[:MOST_TOLD]


def status_of(content: bytes | Path | None) -> int | None:
    """Give how a program ended, as it was noted in the guest; None where nothing was noted."""
    with contextlib.suppress(OSError, ValueError):
        return int(beginning_of(content or b"", 20))
    return None


def beginning_of(content: bytes | Path, octets: int) -> bytes:
    """Give how an output begins, however long it is. Raises OSError."""
    if isinstance(content, bytes):
        return content[:octets]
    with content.open("rb") as file:
        return file.read(octets)


def last_line(content: bytes | Path | None) -> str:
    """Give the last line that a program has printed, for people."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            file.seek(max(0, content.stat().st_size - 1000))
            content = file.read(1000)
    lines = (content or b"").decode(errors="replace").strip().splitlines()
    return f"its last line: {plain(lines[-1])}" if lines else "it printed no error"


def fraction_in(content: bytes) -> float:
    """Give the last number in what a job says of its progress, from 0 to 1; 0 where that makes no sense."""
    for word in reversed(content[-_FRACTION_BYTES:].split()):
        with contextlib.suppress(ValueError):
            fraction = float(word)
            return min(max(fraction, 0.0), 1.0) if not math.isnan(fraction) else 0.0
    return 0.0


def _read_before(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}


@contextlib.contextmanager
def _naming(task: TaskPlan, tag: str) -> Iterator[None]:
    try:
        yield
    except BadName as error:
        raise JobFileError(task.line, tag, str(error)) from error
    except FileNotFoundError as error:
        raise JobFileError(task.line, tag, f"is not there: {error.filename}") from error
