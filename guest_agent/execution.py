"""A job's payload and its validation at work in their slot's container: what they see, and how they end."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from guest_agent.causes import FIRST_LINE_BYTES, what_the_vm_lacked, why_it_cannot_run, why_it_ended
from guest_agent.container import Container, StartOrder
from guest_agent.directory import Directory
from guest_agent.errors import AttemptFailed, CannotRun, GuestError
from guest_agent.limits import JobLimits
from guest_agent.payload import LISTEN_AFTER_S, Payload, PayloadEnd
from guest_agent.pipes import Pipes
from guest_agent.resources import Resources
from guest_agent.streams import CappedFile
from schemas.jobs import MAX_STREAM_BYTES, JobAssign, Outcome, Usage

#: Search path of a payload.
PATH = "/usr/local/bin:/usr/bin:/bin"


class JobExecution:
    """See the module. ``usage`` and ``streams`` are those of all that has run so far."""

    def __init__(self, assign: JobAssign, container: Container, name: str, resources: Resources) -> None:
        self._assign = assign
        self._container = container
        self._work = container.slot_directory.work / name
        self._streams_directory = container.slot_directory.streams(name)
        self.usage = Usage()
        self.exit_status = -1
        self.streams: list[CappedFile] = []
        self._payload: Payload | None = None
        self._is_at_work = self._is_stopped = False
        self._limits = JobLimits(assign, container, resources)

    def stop(self) -> bool:
        """Ask the payload to end, within the job's grace; one that is being started, then. False: none runs."""
        if not self._is_at_work:
            return False
        self._is_stopped = True
        if self._payload is not None:
            self._payload.stop(self._assign.grace_s)
        return True

    async def run(self, held: Directory) -> None:
        """Run the payload. Raises AttemptFailed where it does not end well by itself, OSError, NotContained."""
        await self._limits.begin()
        ended = await self._execute([self._assign.executable, *self._assign.arguments], "", held)
        self.exit_status = ended.exit_status
        self.usage = Usage(
            cpu_seconds=ended.figures.cpu_seconds,
            wall_seconds=ended.wall_seconds,
            peak_rss_bytes=max(ended.figures.peak_bytes, self._limits.peak_bytes),
        )
        if self._is_stopped:
            return
        self._blame_the_overrun("")
        if ended.timed_out:
            wall = f"wall time: it ran longer than wall_time_s = {self._assign.wall_time_s:g}"
            raise AttemptFailed(Outcome.FAILED, wall)
        self._blame_the_vm(ended)
        if ended.exit_status:
            raise AttemptFailed(Outcome.FAILED, self._why(ended))

    async def validate(self, held: Directory) -> None:
        """Run the validation. Raises as ``run`` does."""
        ended = await self._execute([self._assign.validation], "validation.", held)
        if self._is_stopped:
            return
        self._blame_the_overrun("validation: ")
        self._blame_the_vm(ended)
        if ended.exit_status or ended.timed_out:
            how = "ran out of time" if ended.timed_out else self._why(ended).removeprefix("the payload ")
            raise AttemptFailed(Outcome.FAILED, f"validation {self._assign.validation!r} {how}")

    async def _execute(self, command: list[str], prefix: str, held: Directory) -> PayloadEnd:
        streams = [
            CappedFile(self._streams_directory, f"{prefix}{name}", MAX_STREAM_BYTES) for name in ("stdout", "stderr")
        ]
        self.streams += streams
        self._is_at_work = True
        try:
            payload = self._payload = await self._start(command, streams)
            if self._is_stopped:
                payload.stop(self._assign.grace_s)
            with self._limits.watched(payload, held):
                return await payload.wait(self._assign.wall_time_s, self._assign.grace_s)
        except CannotRun as error:
            first_line = _first_line(command[0], self._program(command[0]), held)
            raise AttemptFailed(Outcome.FAILED, why_it_cannot_run(command[0], error.number, first_line)) from error
        finally:
            self._payload, self._is_at_work = None, False
            for stream in streams:
                stream.close()

    async def _start(self, command: list[str], streams: Sequence[CappedFile]) -> Payload:
        program = self._program(command[0])
        order = StartOrder(
            program=program,
            command=[program, *command[1:]],
            directory=self._work,
            environment=self._environment(),
            memory_bytes=self._limits.memory_bytes,
            cpus=self._assign.cpus,
        )
        pipes = Pipes()
        try:
            leader = await self._container.start(order, pipes.out_write, pipes.err_write)
        except BaseException:
            pipes.drop()
            raise
        finally:
            pipes.hand_over()
        return Payload(leader, pipes, *streams, listen_after_s=LISTEN_AFTER_S)

    def _program(self, name: str) -> str:
        """An input of that name is run by its path; all else is looked up in the payload's PATH."""
        if any(item.name == name for item in self._assign.inputs):
            return str(self._work / name)
        return name if "/" in name else shutil.which(name, path=PATH) or name

    def _environment(self) -> dict[str, str]:
        """What a payload sees: its own variables and the few that programs take for granted, none of the agent's."""
        base = {"PATH": PATH, "HOME": str(self._work), "TMPDIR": self._container.temporary, "LANG": "C.UTF-8"}
        return {**base, **self._assign.environment}

    @property
    def disk_bytes(self) -> int:
        """What the job may have on the disk."""
        return self._limits.disk_bytes

    def leave(self) -> None:
        """Nothing of it runs any more: what it was promised and has not used is there for others. Idempotent."""
        self._limits.end()

    def _blame_the_vm(self, ended: PayloadEnd) -> None:
        """Raise AttemptFailed, which counts against nobody's job, if the VM had not what it had promised."""
        if not ended.exit_status or ended.timed_out:
            return
        lack = what_the_vm_lacked(ended, memory_bytes=self._limits.memory_bytes)
        if not lack and self._limits.is_disk_full():
            lack = self._limits.lack_of_disk()
        if lack:
            raise AttemptFailed(Outcome.LOST, lack)

    def _blame_the_overrun(self, prefix: str) -> None:
        """Raise AttemptFailed if it was ended for what it took; as the VM's fault if that had promised it less."""
        overrun = self._limits.overrun
        lack = self._limits.lack_of_disk() if overrun.startswith("disk") else ""
        if lack:
            raise AttemptFailed(Outcome.LOST, lack)
        if overrun:
            raise AttemptFailed(Outcome.FAILED, f"{prefix}{overrun}")

    def _why(self, ended: PayloadEnd) -> str:
        return why_it_ended(ended, memory_bytes=self._limits.memory_bytes, full=self._limits.used_up_of_disk())


def _first_line(name: str, program: str, held: Directory) -> bytes | None:
    """Read how a program begins that could not be started; None where there is none that everybody may read."""
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        inside = Path(program) == held.path / name or ("/" in name and not name.startswith("/"))
        descriptor = held.open(name) if inside else _open_regular(program, flags)
    except (OSError, GuestError):
        return None
    try:
        found = os.fstat(descriptor)
        is_public = stat.S_ISREG(found.st_mode) and (inside or found.st_mode & stat.S_IROTH)
        return os.read(descriptor, FIRST_LINE_BYTES) if is_public else None
    finally:
        os.close(descriptor)


def _open_regular(path: str, flags: int) -> int:
    """Open what is a regular file, and touch nothing else: opening alone makes some devices do something."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return os.open(f"/proc/self/fd/{place}", flags)
    finally:
        os.close(place)
