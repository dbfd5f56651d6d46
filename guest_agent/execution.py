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

from msgspec import Struct

from guest_agent.causes import FIRST_LINE_BYTES, Failure, why_it_cannot_run, why_it_ended
from guest_agent.container import Container, Order
from guest_agent.errors import CannotRun, GuestError, NotContained
from guest_agent.held import Held
from guest_agent.payload import LISTEN_AFTER_S, Ended, Payload, Pipes
from guest_agent.room import RESERVE_BYTES, Room
from guest_agent.streams import CappedFile
from schemas.jobs import MAX_STREAM_BYTES, JobAssign, Outcome, Usage

log = logging.getLogger(__name__)

#: Search path of a payload.
PATH = "/usr/local/bin:/usr/bin:/bin"
#: Between two looks at what a payload uses, where the kernel does not bound it, seconds.
LOOK_S = 0.5
#: A disk with less than this left of what a job may use is full to it, bytes.
FULL_BYTES = 64 << 10


class Bounds(Struct, frozen=True, kw_only=True):
    """What one job may use. 0 = no bound of its own."""

    memory_bytes: int
    disk_bytes: int


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
        self._disk_bytes = 0

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
        await asyncio.to_thread(self._bound_disk) if self._room.quota else self._bound_disk()
        ended = await self._execute([self._assign.executable, *self._assign.arguments], "", held)
        self.exit_status = ended.exit_status
        self.usage = Usage(
            cpu_seconds=ended.figures.cpu_seconds,
            wall_seconds=ended.wall_seconds,
            peak_rss_bytes=max(ended.figures.peak_bytes, self._peak_bytes),
        )
        if self._is_stopped:
            return
        if self._overrun:
            raise Failure(Outcome.FAILED, self._overrun)
        if ended.timed_out:
            wall = f"wall time: it ran longer than wall_time_s = {self._assign.wall_time_s:g}"
            raise Failure(Outcome.FAILED, wall)
        if ended.exit_status:
            raise Failure(Outcome.FAILED, self._why(ended))

    async def validate(self, held: Held) -> None:
        """Run the validation. Raises as ``run`` does."""
        ended = await self._execute([self._assign.validation], "validation.", held)
        if self._is_stopped:
            return
        if self._overrun:
            raise Failure(Outcome.FAILED, f"validation: {self._overrun}")
        if ended.exit_status or ended.timed_out:
            how = "ran out of time" if ended.timed_out else self._why(ended).removeprefix("the payload ")
            raise Failure(Outcome.FAILED, f"validation {self._assign.validation!r} {how}")

    async def _execute(self, command: list[str], prefix: str, held: Held) -> Ended:
        streams = [
            CappedFile(self._streams_directory / f"{prefix}{name}", MAX_STREAM_BYTES) for name in ("stdout", "stderr")
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
            memory_bytes=self._bounds.memory_bytes,
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
    def _bounds(self) -> Bounds:
        return Bounds(
            memory_bytes=self._assign.memory_mib << 20 or self._room.memory_bytes, disk_bytes=self._disk_bytes
        )

    @property
    def disk_bytes(self) -> int:
        """What the job may have on the disk."""
        return self._disk_bytes

    def _bound_disk(self) -> None:
        """Make room for what the job may have on the disk, and let it have no more."""
        quarters = self._container.quarters
        wanted = self._assign.disk_mib << 20
        free = shutil.disk_usage(quarters.directory).free
        needed = self._needed_bytes(wanted, free)
        if free < needed:
            self._room.cache.make_room(needed)
            free = shutil.disk_usage(quarters.directory).free
        there = free - RESERVE_BYTES
        self._disk_bytes = max(min(wanted, there) if wanted else there, 1)
        if self._room.quota is not None and quarters.account is not None:
            self._room.quota.limit(quarters.account.uid, self._disk_bytes)

    def _needed_bytes(self, wanted: int, free: int) -> int:
        """How much of the disk has to be free: all that the job may have, where letting the cache go gives that; else,
        as for a job that may have its share of the whole disk, half of what is not the system's."""
        if free >= wanted + RESERVE_BYTES:
            return 0
        usable = free + self._room.cache.reclaimable_bytes()
        return wanted + RESERVE_BYTES if usable >= wanted + RESERVE_BYTES else usable // 2

    def _why(self, ended: Ended) -> str:
        bounds = self._bounds
        return why_it_ended(
            ended,
            memory_bytes=bounds.memory_bytes,
            disk_is_full=self._is_disk_full(),
            disk_bytes=bounds.disk_bytes,
        )

    def _is_disk_full(self) -> bool:
        account = self._container.quarters.account
        if self._room.quota is None or account is None:
            return False
        return self._room.quota.left_bytes(account.uid) < FULL_BYTES

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
        limit = self._bounds.memory_bytes
        if not limit or resident <= limit:
            return ""
        return f"memory: it had {resident >> 20} MiB in memory, its limit was {limit >> 20} MiB"

    async def _disk_overrun(self, held: Held) -> str:
        if self._room.quota is not None or not self._assign.disk_mib:
            return ""
        used = await asyncio.to_thread(self._container.quarters.used_bytes, held)
        if used <= self._disk_bytes:
            return ""
        return f"disk: it had {used >> 20} MiB on the disk, its limit was {self._disk_bytes >> 20} MiB"


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
