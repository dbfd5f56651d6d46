"""The processes of a payload: their leader, and what became of it.

A job's are started and ended by its slot's container; a console's command is a plain process group of the agent's own
user, which is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from guest_agent.cgroup import Figures
from guest_agent.errors import CannotRun
from guest_agent.pipes import Pipes


class End(Struct, frozen=True, kw_only=True):
    """What became of a leader. ``code`` is its exit status, or minus the signal that ended it."""

    code: int
    figures: Figures


class Leader(Protocol):
    """The first process of a payload, and all that it has started. ``ended`` may raise CannotRun, NotContained."""

    ended: asyncio.Future[End]

    def signal(self, number: int) -> None:
        """Signal its group; SIGKILL ends everything. Nothing happens when it is gone."""


class ProcessGroup:
    """A process group started by the agent itself. See ``Leader``."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self.ended: asyncio.Future[End] = self._loop.create_future()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    @classmethod
    def spawn(
        cls, command: Sequence[str], directory: Path, environment: Mapping[str, str], pipes: Pipes
    ) -> ProcessGroup:
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
        return cls(process)

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


def _why(program: str, directory: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"executable = {program!r}: there is no such program on this VM (looked in {directory} and PATH)"
    if isinstance(error, PermissionError):
        return f"executable = {program!r}: it may not be executed; mark the input executable"
    return f"executable = {program!r}: {error}"
