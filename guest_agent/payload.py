"""One payload run to its end, whatever holds it together: a job's, its validation, a console's command.

Output goes to two sinks through pipes, so that it can be capped or held back. What it has started ends with its leader
or at its wall time, with a grace. Who starts and ends processes is a ``Leader``: a job's container, or, for a command
of a console, ``Spawned`` here, a plain process group. Nothing here knows of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from guest_agent.cgroup import Figures
from guest_agent.errors import CannotRun

#: Bytes read from a pipe at a time.
READ_BYTES = 64 * 1024
#: Nobody listens to a job before this, seconds: what a shorter one prints is read once, at its end.
LISTEN_AFTER_S = 0.02
#: How long output of a group whose leader has ended is still awaited, seconds.
DRAIN_S = 2.0
#: Between the polite signal and the last one, seconds, where nobody has chosen.
GRACE_S = 10.0


class Account(Struct, frozen=True):
    """The user and group that a process runs as."""

    uid: int
    gid: int


class End(Struct, frozen=True, kw_only=True):
    """What became of a leader. ``code`` is its exit status, or minus the signal that ended it."""

    code: int
    figures: Figures


class Ended(Struct, frozen=True, kw_only=True):
    """How a payload ended. ``exit_status`` is the shell's, 128 + n for a death by signal n; ``signal`` is n then."""

    exit_status: int
    signal: int = 0
    wall_seconds: float
    timed_out: bool
    figures: Figures


class Sink(Protocol):
    """Takes a stream's bytes. ``take`` returns False to be asked no more until ``Payload.go_on``."""

    def take(self, data: bytes) -> bool:
        """Take some output."""


class Leader(Protocol):
    """The first process of a payload, and all that it has started. ``ended`` may raise CannotRun, NotContained."""

    ended: asyncio.Future[End]

    def signal(self, number: int) -> None:
        """Signal its group; SIGKILL ends everything. Nothing happens when it is gone."""


class Pipes:
    """Two pipes for a payload's output. ``hand_over`` once both write ends are with it."""

    def __init__(self) -> None:
        self.out, self.out_write = os.pipe()
        self.err, self.err_write = os.pipe()

    def hand_over(self) -> None:
        """Close our copies of the write ends."""
        os.close(self.out_write)
        os.close(self.err_write)

    def drop(self) -> None:
        """Close the read ends too: nothing was started."""
        os.close(self.out)
        os.close(self.err)


class Spawned:
    """A process group started by the agent itself. See ``Leader``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self.ended: asyncio.Future[End] = self._loop.create_future()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    @property
    def pid(self) -> int:
        """The leader's process id, which is its group's."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """See ``Leader``."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status, usage = os.wait4(self._process.pid, 0)
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        figures = Figures(cpu_seconds=usage.ru_utime + usage.ru_stime, peak_bytes=usage.ru_maxrss * 1024)
        self.ended.set_result(End(code=code, figures=figures))


def spawn(command: Sequence[str], directory: Path, environment: Mapping[str, str], pipes: Pipes) -> Spawned:
    """Start a command as the leader of a group of its own, as the agent's own user. Raises CannotRun."""
    try:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=pipes.out_write,
            stderr=pipes.err_write,
            start_new_session=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise CannotRun(_why(command[0], directory, error)) from error
    return Spawned(process)


class Payload:
    """A payload that runs. Make it with ``start``, or of a leader that a container has started."""

    def __init__(
        self, leader: Leader, pipes: Pipes, stdout: Sink, stderr: Sink, *, listen_after_s: float = 0.0
    ) -> None:
        """Take the pipes over. What is printed waits in them until they are listened to, or for the end."""
        self._loop = asyncio.get_running_loop()
        self._leader = leader
        self._began = time.monotonic()
        self._sinks = {pipes.out: stdout, pipes.err: stderr}
        self._reading: set[int] = set()
        #: Those whose sinks asked to be left alone.
        self._held_back: set[int] = set()
        self._drained = asyncio.Event()
        self._last: asyncio.TimerHandle | None = None
        for descriptor in self._sinks:
            os.set_blocking(descriptor, False)
        self._listen = self._loop.call_later(listen_after_s, self.go_on) if listen_after_s else None
        if self._listen is None:
            self.go_on()

    @classmethod
    def start(
        cls, command: Sequence[str], *, directory: Path, environment: Mapping[str, str], stdout: Sink, stderr: Sink
    ) -> Payload:
        """Start a command of the agent's own user. Raises CannotRun, and nothing runs then."""
        pipes = Pipes()
        try:
            leader = spawn(command, directory, environment, pipes)
        except CannotRun:
            pipes.drop()
            raise
        finally:
            pipes.hand_over()
        return cls(leader, pipes, stdout, stderr)

    def go_on(self) -> None:
        """Read again from streams whose sinks asked to be left alone."""
        for descriptor in set(self._sinks) - self._reading:
            self._read(descriptor)

    def signal(self, number: int) -> None:
        """Send a signal to the group; nothing happens when it is gone."""
        self._leader.signal(number)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Ask it to end, and after the grace end it and all that it has started. Idempotent."""
        if self._last is None:
            self.signal(signal.SIGTERM)
            self._last = self._loop.call_later(grace_s, self.signal, signal.SIGKILL)

    async def wait(self, wall_time_s: float | None = None, grace_s: float = GRACE_S) -> Ended:
        """Wait for the end; at the wall time it is stopped. Post-condition: nothing that it started is left.

        Raises what its leader's end raises.
        """
        timed_out = False
        try:
            await asyncio.wait((self._leader.ended,), timeout=wall_time_s)
            if timed_out := not self._leader.ended.done():
                self.stop(grace_s)
                await asyncio.wait((self._leader.ended,))
        finally:
            self.signal(signal.SIGKILL)
            if self._last is not None:
                self._last.cancel()
        try:
            end = await self._leader.ended
        finally:
            await self._drain()
        return Ended(
            exit_status=end.code if end.code >= 0 else 128 - end.code,
            signal=max(-end.code, 0),
            wall_seconds=time.monotonic() - self._began,
            timed_out=timed_out,
            figures=end.figures,
        )

    async def _drain(self) -> None:
        """Take what is still in the pipes, for as long as a sink holds it back. A process that left the group may keep
        them open; it is not waited for."""
        self._take_at_once()
        while self._sinks:
            try:
                async with asyncio.timeout(DRAIN_S):
                    await self._drained.wait()
            except TimeoutError:
                if self._reading == set(self._sinks):
                    break
        for descriptor in list(self._sinks):
            self._shut(descriptor)

    def _take_at_once(self) -> None:
        """Take what is in pipes to which nobody has listened yet: nearly always that is all, up to their end."""
        if self._listen is not None:
            self._listen.cancel()
        for descriptor in set(self._sinks) - self._reading - self._held_back:
            if self._take(descriptor):
                self._take(descriptor)
            if descriptor in self._sinks and descriptor not in self._held_back:
                self._read(descriptor)

    def _read(self, descriptor: int) -> None:
        self._reading.add(descriptor)
        self._held_back.discard(descriptor)
        self._loop.add_reader(descriptor, self._take, descriptor)

    def _take(self, descriptor: int) -> bool:
        """Hand some output on. Says whether there may be more to be had now."""
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._shut(descriptor)
        elif not self._sinks[descriptor].take(data):
            self._held_back.add(descriptor)
            self._ignore(descriptor)
        else:
            return True
        return False

    def _ignore(self, descriptor: int) -> None:
        if descriptor in self._reading:
            self._reading.discard(descriptor)
            self._loop.remove_reader(descriptor)

    def _shut(self, descriptor: int) -> None:
        self._ignore(descriptor)
        del self._sinks[descriptor]
        os.close(descriptor)
        if not self._sinks:
            self._drained.set()


def _why(program: str, directory: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"executable = {program!r}: there is no such program on this VM (looked in {directory} and PATH)"
    if isinstance(error, PermissionError):
        return f"executable = {program!r}: it may not be executed; mark the input executable"
    return f"executable = {program!r}: {error}"
