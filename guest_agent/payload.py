"""One process group run to its end: a job's payload, its validation, a console's command.

Output goes to two sinks through pipes, so that it can be capped or held back; the whole group dies with its leader
or at its wall time. Usage is the kernel's own accounting (wait4). Nothing here knows of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from msgspec import Struct

from broker import durable
from guest_agent.errors import CannotRun

#: Bytes read from a pipe at a time.
READ_BYTES = 64 * 1024
#: A stream up to this size stays in memory, bytes.
SMALL_BYTES = 16 * 1024
#: A payload is noted within this time of its start, seconds.
NOTED_WITHIN_S = 10.0
#: Length of a file that ``overwrite`` writes, bytes.
NOTE_BYTES = 512
#: How long output of a group whose leader has ended is still awaited, seconds.
DRAIN_S = 2.0


class Account(Struct, frozen=True):
    """The user and group that a process runs as."""

    uid: int
    gid: int


class Ended(Struct, frozen=True, kw_only=True):
    """How a process ended. ``exit_status`` is the shell's: 128 + n for a death by signal n."""

    exit_status: int
    cpu_seconds: float
    wall_seconds: float
    peak_rss_bytes: int
    timed_out: bool


class Sink(Protocol):
    """Takes a stream's bytes. ``take`` returns False to be asked no more until ``Payload.go_on``."""

    def take(self, data: bytes) -> bool:
        """Take some output."""


class CappedFile:
    """A stream kept up to ``limit`` bytes, with a loud mark where there was more. Small ones never touch the disk."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        #: What was kept, while it is small; empty once it went to the file.
        self.head = b""
        self._room = limit
        self._file: BinaryIO | None = None
        #: Bytes that were not kept.
        self.cut_bytes = 0

    def take(self, data: bytes) -> bool:
        """Keep what there is room for."""
        kept = data[: self._room]
        self._room -= len(kept)
        self.cut_bytes += len(data) - len(kept)
        self._keep(kept)
        return True

    @property
    def is_small(self) -> bool:
        """All of it is in ``head``; there is no file."""
        return self._file is None

    def close(self) -> None:
        """Take no more. Idempotent."""
        if self.cut_bytes and self._room >= 0:
            self._keep(
                f"\n*** TRUNCATED: {self.cut_bytes} more bytes were not kept (limit {self.limit}) ***\n".encode()
            )
            self._room = -1
        if self._file is not None:
            self._file.close()

    def _keep(self, data: bytes) -> None:
        if self._file is None and len(self.head) + len(data) <= SMALL_BYTES:
            self.head += data
            return
        try:
            self._spill(data)
        except OSError:  # a full disk cuts the stream, and the mark says so
            self.cut_bytes += len(data)
            self._room = 0

    def _spill(self, data: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self._file = self.path.open("wb", buffering=0)
            durable.write_all(self._file.fileno(), self.head)
            self.head = b""
        durable.write_all(self._file.fileno(), data)


class Payload:
    """A running process group. Make it with ``start``."""

    def __init__(self, process: subprocess.Popen[bytes], sinks: Mapping[int, Sink]) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._began = time.monotonic()
        self._sinks = dict(sinks)
        self._reading: set[int] = set()
        self._drained = asyncio.Event()
        self._exited: asyncio.Future[tuple[int, resource.struct_rusage]] = self._loop.create_future()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        for descriptor in self._sinks:
            os.set_blocking(descriptor, False)
            self._read(descriptor)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        stdout: Sink,
        stderr: Sink,
        account: Account | None = None,
        memory_bytes: int = 0,
    ) -> Payload:
        """Start a command as the leader of a group of its own. Raises CannotRun, and nothing runs then."""
        out, out_write = os.pipe()
        err, err_write = os.pipe()
        try:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out_write,
                stderr=err_write,
                start_new_session=True,
                **_as_account(account),  # type: ignore[call-overload]
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            os.close(out)
            os.close(err)
            raise CannotRun(_why(command[0], directory, error)) from error
        finally:
            os.close(out_write)
            os.close(err_write)
        _limit(process.pid, memory_bytes)
        return cls(process, {out: stdout, err: stderr})

    @property
    def pid(self) -> int:
        """The leader's process id, which is its group's."""
        return self._process.pid

    def go_on(self) -> None:
        """Read again from streams whose sinks asked to be left alone."""
        for descriptor in set(self._sinks) - self._reading:
            self._read(descriptor)

    def signal(self, number: int) -> None:
        """Send a signal to the group; nothing happens when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def wait(self, wall_time_s: float | None = None) -> Ended:
        """Wait for the end; at the wall time the group is killed. Post-condition: no process of the group is left."""
        timed_out = False
        try:
            await asyncio.wait_for(asyncio.shield(self._exited), wall_time_s)
        except TimeoutError:
            timed_out = True
        finally:
            self.signal(signal.SIGKILL)
        status, usage = await self._exited
        await self._drain()
        return Ended(
            exit_status=status,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            wall_seconds=time.monotonic() - self._began,
            peak_rss_bytes=usage.ru_maxrss * 1024,
            timed_out=timed_out,
        )

    async def _drain(self) -> None:
        """Take what is still in the pipes, for as long as a sink holds it back. A process that left the group may keep
        them open; it is not waited for."""
        while self._sinks:
            try:
                await asyncio.wait_for(self._drained.wait(), DRAIN_S)
            except TimeoutError:
                if self._reading == set(self._sinks):
                    break
        for descriptor in list(self._sinks):
            self._shut(descriptor)

    def _read(self, descriptor: int) -> None:
        self._reading.add(descriptor)
        self._loop.add_reader(descriptor, self._on_readable, descriptor)

    def _on_readable(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._shut(descriptor)
        elif not self._sinks[descriptor].take(data):
            self._reading.discard(descriptor)
            self._loop.remove_reader(descriptor)

    def _shut(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        self._reading.discard(descriptor)
        del self._sinks[descriptor]
        os.close(descriptor)
        if not self._sinks:
            self._drained.set()

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status, usage = os.wait4(self._process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        self._exited.set_result((code if code >= 0 else 128 - code, usage))


def kill_group_left_behind(pid: int, noted_s: float) -> bool:
    """Kill the group that a dead agent left, if ``pid`` still is the process that ran at ``noted_s`` (``since_boot``).

    It is when it had started just before: whoever gets the number later starts later. Says whether there was one.
    """
    ticks = start_time_of(pid)
    if not ticks or not noted_s - NOTED_WITHIN_S <= int(ticks) / os.sysconf("SC_CLK_TCK") <= noted_s:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return True


def since_boot() -> float:
    """Give the seconds since the kernel booted, on the clock of processes' start times."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def start_time_of(pid: int) -> str:
    """Give a process's start time in clock ticks since boot (field 22 of /proc/PID/stat); empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def overwrite(path: Path, text: bytes) -> None:
    """Replace the content of a small file in place, padded with spaces: nothing of the file system's own changes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        durable.write_all(descriptor, text.ljust(NOTE_BYTES), 0)
    finally:
        os.close(descriptor)


def _as_account(account: Account | None) -> dict[str, object]:
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": [], "umask": 0o022}


def _limit(pid: int, memory_bytes: int) -> None:
    """Make the payload, not the agent, the one that dies when memory runs out."""
    with contextlib.suppress(ProcessLookupError, PermissionError, FileNotFoundError):
        if memory_bytes:
            resource.prlimit(pid, resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        descriptor = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY)
        try:
            os.write(descriptor, b"1000")
        finally:
            os.close(descriptor)


def _why(program: str, directory: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"executable = {program!r}: there is no such program on this VM (looked in {directory} and PATH)"
    if isinstance(error, PermissionError):
        return f"executable = {program!r}: it may not be executed; mark the input executable"
    return f"executable = {program!r}: {error}"
