"""A console's command under its minder, as the agent sees it: started, signalled, ended. See ``guest_agent.minder``."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Struct

from guest_agent.cgroup import Figures
from guest_agent.errors import RESET, CannotRun, NotContained
from guest_agent.exec_user import ExecUser
from guest_agent.minders import Minders
from guest_agent.process_group import End
from guest_agent.process_tree import marked

#: How long a minder may take to start a command, seconds: under emulation, on a machine that is full.
START_S = 60.0
#: By this variable we know what a command has started, should its minder be killed, and how often that is looked for:
#: what is killed may just have started something.
MARK, KILL_TURNS = "VOLCLOUD_COMMAND", 3
_READ_BYTES = 65536
#: What to do where the machine is in the way, and by what the kernel says of a program.
LOOK = "look at the VM's disk and memory with `volcloud vm stats`, then run it again"
HINTS = {
    errno.ENOEXEC: "give it a first line such as #!/bin/sh, or one that was built for this VM",
    errno.E2BIG: "push what is long as a file: `volcloud vm push`",
    **dict.fromkeys((errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EMFILE, errno.ENFILE), LOOK),
}


class Streams(Struct, frozen=True, kw_only=True):
    """The standard streams of a command, as descriptors. ``terminal`` is the path of the one that they all are."""

    stdin: int
    stdout: int
    stderr: int
    terminal: str = ""


class MindedCommand:
    """A command and its minder. See ``Leader``; ``ended`` raises CannotRun, NotContained. Belongs to one loop."""

    def __init__(self, minders: Minders, command: Sequence[str], directory: Path, user: ExecUser | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._minders = minders
        self._command, self._directory, self._user = command, directory, user
        self._id = uuid4().hex
        self._started: asyncio.Future[int] = self._loop.create_future()
        self.ended: asyncio.Future[End] = self._loop.create_future()
        self._socket: socket.socket | None = None
        #: The minder has said that nothing is left of the command, and that it may have another.
        self._is_clear = False

    async def start(self, environment: Mapping[str, str], streams: Streams) -> None:
        """Have it started; the streams are the minder's from here on. Raises CannotRun, and nothing runs then."""
        order = {
            "command": self._command,
            "environment": {**environment, MARK: self._id},
            "directory": str(self._directory),
            "account": None if self._user is None else self._user.account,
            "terminal": streams.terminal,
        }
        try:
            encoded = msgspec.json.encode(order)
            self._socket = self._minders.mind(encoded, (streams.stdin, streams.stdout, streams.stderr))
        except (OSError, ValueError, msgspec.MsgspecError, UnicodeError) as error:
            raise CannotRun(f"command = {self._command[0]!r}: {error}", hint=LOOK) from error
        self._loop.add_reader(self._socket, self._on_message)
        try:
            async with asyncio.timeout(START_S):
                await self._started
        except TimeoutError as error:
            self.close()
            text = f"command = {self._command[0]!r}: it was not started in {START_S:.0f} s"
            raise CannotRun(text, hint=LOOK) from error

    def signal(self, number: int) -> None:
        """Signal its process group; SIGKILL ends all that it has started. Nothing happens when it is gone."""
        if self._socket is not None and not self.ended.done():
            with contextlib.suppress(OSError):
                self._socket.send(msgspec.json.encode({"signal": number}))

    def close(self) -> None:
        """Let the minder go, which ends whatever runs. Idempotent."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket)
        if self._is_clear:
            self._minders.take_back(self._socket)
        else:
            self._socket.close()
            self._minders.prepare()
        self._socket = None
        self._fail(NotContained("the command's parent was ended"))

    def _on_message(self) -> None:
        if self._socket is None:
            return
        try:
            message = self._socket.recv(_READ_BYTES)
        except OSError:
            message = b""
        if not message:
            self._on_gone()
            return
        said = msgspec.json.decode(message)
        self._is_clear = said.get("stays") is True
        if "failed" in said:
            why, hint = self._why(said["failed"], said["at"])
            self._fail(CannotRun(why, said["failed"], hint=hint))
        elif "pid" in said:
            _settle(self._started, said["pid"])
        else:
            self._on_end(said)

    def _on_end(self, said: dict[str, Any]) -> None:
        if said["left"]:
            self._fail(NotContained("processes of the command do not end, though they were killed", hint=RESET))
            return
        figures = Figures(
            cpu_seconds=said["cpu_seconds"], system_seconds=said["system_seconds"], peak_bytes=said["peak_bytes"]
        )
        _settle(self._started, 0)
        code = os.waitstatus_to_exitcode(said["status"])
        _settle(self.ended, End(code=code, figures=figures, wall_seconds=said["wall_seconds"]))

    def _on_gone(self) -> None:
        """The minder has ended; one that was killed, as by its own command, leaves what it minded to us."""
        self._is_clear = False
        if not self.ended.done():
            for _ in range(KILL_TURNS):
                _kill_all(marked(f"{MARK}={self._id}"))
        text = "the command's parent was killed, and the command with it"
        self._fail(NotContained(text, hint="run it again; `volcloud vm stats` shows whether the VM is short of memory"))
        self.close()

    def _fail(self, error: CannotRun | NotContained) -> None:
        for future in (self._started, self.ended):
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more

    def _why(self, number: int, blamed: str | None) -> tuple[str, str]:
        """Say what kept it from being started, and what to do about it."""
        whom = f" as {self._user.name}" if self._user is not None else ""
        if blamed == "":
            return (
                f"directory = {str(self._directory)!r}: {os.strerror(number)}{whom}",
                "make it, or choose another with --cwd",
            )
        program = self._command[0]
        if number in (errno.ENOENT, errno.ENOTDIR):
            text = f"command = {program!r}: there is no such program in this VM (looked in {self._directory} and PATH)"
            return text, "push it there with `volcloud vm push`, or give the whole path of one that is there"
        if number == errno.EACCES:
            return f"command = {program!r}: it may not be executed{whom}", "mark it executable there"
        return f"command = {program!r}: {os.strerror(number)}", HINTS.get(number, "")


def _kill_all(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
