"""A job's payload and its validation at work in their slot's container: what they see, what they may use, how they end.

Limits that the kernel does not keep here, since there are no control groups or no quota, are watched over instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from guest_agent.causes import FIRST_LINE_BYTES, Failure, what_the_vm_lacked, why_it_cannot_run, why_it_ended
from guest_agent.container import Container, Order
from guest_agent.disk import FULL_BYTES
from guest_agent.errors import CannotRun, GuestError, NotContained
from guest_agent.held import Held
from guest_agent.payload import LISTEN_AFTER_S, Ended, Payload, Pipes
from guest_agent.quota import Amount
from guest_agent.room import Room
from guest_agent.streams import CappedFile
from schemas.jobs import MAX_STREAM_BYTES, JobAssign, Outcome, Usage

log = logging.getLogger(__name__)

#: Search path of a payload.
PATH = "/usr/local/bin:/usr/bin:/bin"
#: Between two looks at what a payload uses, where the kernel does not bound it, seconds.
LOOK_S = 0.5
#: A promise of disk that is short of what was asked for by less than this part of it is as good as kept.
SHORT_PART = 8
#: A promise below this is none, bytes.
LEAST_BYTES = 1 << 20


class Execution:
    """See the module. ``usage`` and ``streams`` are those of all that has run so far."""

    def __init__(self, assign: JobAssign, container: Container, name: str, room: Room) -> None:
        self._assign = assign
        self._container = container
        self._room = room
        self._work = container.quarters.work / name
        self._streams_directory = container.quarters.streams(name)
        self.usage = Usage()
        self.exit_status = -1
        self.streams: list[CappedFile] = []
        self._payload: Payload | None = None
        self._is_at_work = self._is_stopped = False
        self._overrun = ""
        self._peak_bytes = 0
        self._disk = Amount()

    def stop(self) -> bool:
        """Ask the payload to end, within the job's grace; one that is being started, then. False: none runs."""
        if not self._is_at_work:
            return False
        self._is_stopped = True
        if self._payload is not None:
            self._payload.stop(self._assign.grace_s)
        return True

    async def run(self, held: Held) -> None:
        """Run the payload. Raises Failure with the cause when it does not end well by itself, OSError, NotContained."""
        await asyncio.to_thread(self._bound_disk) if self._room.disk.counts_by_account else self._bound_disk()
        ended = await self._execute([self._assign.executable, *self._assign.arguments], "", held)
        self.exit_status = ended.exit_status
        self.usage = Usage(
            cpu_seconds=ended.figures.cpu_seconds,
            wall_seconds=ended.wall_seconds,
            peak_rss_bytes=max(ended.figures.peak_bytes, self._peak_bytes),
        )
        if self._is_stopped:
            return
        self._blame_the_overrun("")
        if ended.timed_out:
            wall = f"wall time: it ran longer than wall_time_s = {self._assign.wall_time_s:g}"
            raise Failure(Outcome.FAILED, wall)
        self._blame_the_vm(ended)
        if ended.exit_status:
            raise Failure(Outcome.FAILED, self._why(ended))

    async def validate(self, held: Held) -> None:
        """Run the validation. Raises as ``run`` does."""
        ended = await self._execute([self._assign.validation], "validation.", held)
        if self._is_stopped:
            return
        self._blame_the_overrun("validation: ")
        self._blame_the_vm(ended)
        if ended.exit_status or ended.timed_out:
            how = "ran out of time" if ended.timed_out else self._why(ended).removeprefix("the payload ")
            raise Failure(Outcome.FAILED, f"validation {self._assign.validation!r} {how}")

    async def _execute(self, command: list[str], prefix: str, held: Held) -> Ended:
        streams = [
            CappedFile(self._streams_directory, f"{prefix}{name}", MAX_STREAM_BYTES) for name in ("stdout", "stderr")
        ]
        self.streams += streams
        self._is_at_work = True
        try:
            payload = self._payload = await self._start(command, streams)
            if self._is_stopped:
                payload.stop(self._assign.grace_s)
            with self._watched(payload, held):
                return await payload.wait(self._assign.wall_time_s, self._assign.grace_s)
        except CannotRun as error:
            first_line = _first_line(command[0], self._program(command[0]), held)
            raise Failure(Outcome.FAILED, why_it_cannot_run(command[0], error.number, first_line)) from error
        finally:
            self._payload, self._is_at_work = None, False
            for stream in streams:
                stream.close()

    async def _start(self, command: list[str], streams: Sequence[CappedFile]) -> Payload:
        program = self._program(command[0])
        order = Order(
            program=program,
            command=[program, *command[1:]],
            directory=self._work,
            environment=self._environment(),
            memory_bytes=self._memory_bytes,
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
    def _memory_bytes(self) -> int:
        """What the job may have in memory; 0 = what there is."""
        return self._assign.memory_mib << 20 or self._room.memory_bytes

    @property
    def disk_bytes(self) -> int:
        """What the job may have on the disk."""
        return self._disk.bytes

    def leave(self) -> None:
        """Nothing of it runs any more: what it was promised and has not used is there for others. Idempotent."""
        self._room.disk.end(self._container.quarters.directory)

    def _bound_disk(self) -> None:
        """Have the job promised what it may have on the disk."""
        quarters = self._container.quarters
        self._disk = self._room.disk.begin(quarters.directory, quarters.account, self._assign.disk_mib << 20)

    def _blame_the_vm(self, ended: Ended) -> None:
        """Raise Failure, which counts against nobody's job, if the VM had not what it had promised."""
        if not ended.exit_status or ended.timed_out:
            return
        lack = what_the_vm_lacked(ended, memory_bytes=self._memory_bytes)
        if not lack and self._is_disk_full():
            lack = self._lack_of_disk()
        if lack:
            raise Failure(Outcome.LOST, lack)

    def _blame_the_overrun(self, prefix: str) -> None:
        """Raise Failure if it was ended for what it took: the VM's where that had promised it less than was asked."""
        lack = self._lack_of_disk() if self._overrun.startswith("disk") else ""
        if lack:
            raise Failure(Outcome.LOST, lack)
        if self._overrun:
            raise Failure(Outcome.FAILED, f"{prefix}{self._overrun}")

    def _lack_of_disk(self) -> str:
        """Say that the VM had much less of its disk than the job was to have; empty where it had not."""
        wanted, had = self._assign.disk_mib << 20, self._disk.bytes
        if wanted - had > wanted // SHORT_PART:
            return f"disk: the VM had {had >> 20} MiB for this job, which was to have {wanted >> 20} MiB"
        return "disk: the VM had nothing left for this job" if had < LEAST_BYTES else ""

    def _why(self, ended: Ended) -> str:
        return why_it_ended(ended, memory_bytes=self._memory_bytes, full=self._full())

    def _is_disk_full(self) -> bool:
        left = self._room.disk.left(self._container.quarters.account)
        return left is not None and left.bytes < FULL_BYTES

    def _full(self) -> str:
        """Say what of the disk a job has used up, in words; empty where nobody counts."""
        left = self._room.disk.left(self._container.quarters.account)
        if left is not None and left.bytes < FULL_BYTES:
            return f"its disk was full: it may use {self._disk.bytes >> 20} MiB"
        if left is not None and left.files < 1:
            return f"it had as many files and directories as it may have: {self._disk.files}"
        return ""

    @contextlib.contextmanager
    def _watched(self, payload: Payload, held: Held) -> Iterator[None]:
        """Keep what the kernel does not keep, for as long as the payload runs; one that is short is not looked at."""
        watches: list[asyncio.Future[None]] = []
        first = asyncio.get_running_loop().call_later(
            LOOK_S, lambda: watches.append(asyncio.ensure_future(self._watch(payload, held)))
        )
        try:
            yield
        finally:
            first.cancel()
            for watch in watches:
                watch.cancel()

    async def _watch(self, payload: Payload, held: Held) -> None:
        try:
            await self._container.assure()
            while not self._overrun:
                self._overrun = await self._memory_overrun() or await self._disk_overrun(held)
                await asyncio.sleep(0 if self._overrun else LOOK_S)
        except (NotContained, OSError) as error:
            log.warning("payload not watched", extra={"job": self._assign.job, "why": str(error)})
            return
        payload.signal(signal.SIGKILL)

    async def _memory_overrun(self) -> str:
        if self._container.bounds_memory:
            return ""
        resident = await self._container.resident_bytes()
        self._peak_bytes = max(self._peak_bytes, resident)
        limit = self._memory_bytes
        if not limit or resident <= limit:
            return ""
        return f"memory: it had {resident >> 20} MiB in memory, its limit was {limit >> 20} MiB"

    async def _disk_overrun(self, held: Held) -> str:
        if self._room.disk.counts_by_account or not self._assign.disk_mib:
            return ""
        used = await asyncio.to_thread(self._container.quarters.used, held)
        self._room.disk.note_used(self._container.quarters.directory, used)
        if used.bytes > self._disk.bytes:
            return f"disk: it had {used.bytes >> 20} MiB on the disk, its limit was {self._disk.bytes >> 20} MiB"
        if used.files > self._disk.files:
            return f"disk: it had {used.files} files and directories, its limit was {self._disk.files}"
        return ""


def _first_line(name: str, program: str, held: Held) -> bytes | None:
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
