"""Commands that a console runs in this VM: input and output under windows, signals, one answer.

Beyond the window the pipe blocks, so a command can never fill anyone's memory. A console that is gone for good takes
its command with it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broker.rpc import Call, Handler
from guest_agent import exec_start
from guest_agent.console_stream import USUAL, ConsolePatience, ConsoleSink, ConsoleStream
from guest_agent.detached import DetachedExecs, check_yours, clipped
from guest_agent.errors import ExecBusy, ExecInterrupted, InputBroken
from guest_agent.exec_start import StartedCommand
from guest_agent.minders import Minders
from guest_agent.payload import PayloadEnd
from schemas.envelope import Accepted, Message, Reply
from schemas.execs import (
    ExecAttach,
    ExecDetach,
    ExecEnded,
    ExecInput,
    ExecInputWindow,
    ExecKill,
    ExecList,
    ExecResize,
    ExecRow,
    ExecRows,
    ExecRun,
    ExecSignal,
    ExecState,
    ExecWindow,
    Stream,
)

log = logging.getLogger(__name__)

#: Consoles that a VM has at once.
MOST_CONSOLES = 100


class RunningCommand:
    """A command at work for a console that stays: its streams, and how it ends."""

    def __init__(self, call: Call, patience: ConsolePatience) -> None:
        self._call = call
        self.sender = call.sender
        self.since_ms = int(time.time() * 1000)
        self.stream = ConsoleStream(call, patience)
        self._started: StartedCommand | None = None
        self._broken: InputBroken | None = None
        self._words: list[str] = []
        #: Signals that came before it was started.
        self._early: list[int] = []

    @property
    def row(self) -> ExecRow:
        """What a listing shows of it."""
        return ExecRow(
            id=self._call.message.id,
            principal=self.sender,
            since_ms=self.since_ms,
            state=ExecState.RUNNING,
            is_detached=False,
            command=self._words,
        )

    async def run(self, minders: Minders, order: ExecRun, area: Path) -> Reply:
        """Run it to its end. Raises CannotRun, BadPath, InputBroken, NotContained."""
        self._words = clipped(order.command)
        out, err = (ConsoleSink(self.stream, stream) for stream in (Stream.STDOUT, Stream.STDERR))
        started = self._started = await exec_start.start(minders, order, area, out, err, self._on_input)
        try:
            if started.stdin is not None:
                self.stream.sign_of_life = self._window
                self._on_input()
            self.stream.on_room = started.payload.go_on
            for number in self._early:
                started.payload.signal(number)
            ended = await self._attend(started, order.timeout_s)
        finally:
            started.close()
        if self._broken is not None:
            raise self._broken
        return exec_start.ended_of(self._call.message.id, ended, output_messages=self.stream.numbers)

    def take(self, piece: ExecInput) -> None:
        """Pass some input on; one that cannot be whole any more ends the command."""
        if self._started is None or self._started.stdin is None or self._broken is not None:
            return
        try:
            self._started.stdin.take(piece)
        except InputBroken as error:
            self._broken = error
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Signal it, as soon as it runs; nothing happens when it has ended."""
        if self._started is not None:
            self._started.payload.signal(number)
        else:
            self._early.append(number)

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size, where it has one."""
        if self._started is not None and self._started.terminal is not None:
            self._started.terminal.resize(rows, columns)

    async def _attend(self, started: StartedCommand, timeout_s: float) -> PayloadEnd:
        sending = asyncio.create_task(self._send())
        try:
            ended = await started.payload.wait(timeout_s)
            self.stream.finish()
            await sending
        finally:
            sending.cancel()
        return ended

    async def _send(self) -> None:
        if not await self.stream.send_all():
            log.info("console gone, command killed", extra={"command": self._call.message.id})
            self.signal(signal.SIGKILL)

    def _on_input(self) -> None:
        self.stream.say(self._window())

    def _window(self) -> Message:
        """Say how much input may come; said again in silences, since a reconnect may have cost it."""
        stdin = self._started.stdin if self._started is not None else None
        if stdin is None:
            return Accepted(call=self._call.message.id)
        return ExecInputWindow(call=self._call.message.id, limit_bytes=stdin.limit_bytes, is_closed=stdin.is_closed)


class Attachment:
    """A console that follows a detached command. Its signals end that, and nothing else."""

    def __init__(self, call: Call, patience: ConsolePatience) -> None:
        self.sender = call.sender
        self.stream = ConsoleStream(call, patience)
        self._following: asyncio.Future[ExecEnded] | None = None
        self._is_left = False

    async def run(self, follow: Coroutine[Any, Any, ExecEnded]) -> Reply:
        """Follow to the end, or to the console's. Raises what following raises."""
        self._following = asyncio.ensure_future(follow)
        try:
            return await self._following
        except asyncio.CancelledError:
            if not self._is_left:
                raise
            raise ExecInterrupted("nobody is attached any more; the command runs on") from None

    def signal(self, number: int) -> None:
        """Follow no more."""
        self._is_left = True
        if self._following is not None:
            self._following.cancel()

    def take(self, piece: ExecInput) -> None:
        """Drop input: it has none."""

    def resize(self, rows: int, columns: int) -> None:
        """Do nothing: it has no terminal."""


class Execs:
    """The commands of this VM: those with a console by the id of their call, and the detached ones."""

    def __init__(self, area: Path, kept: Path | None = None, *, patience: ConsolePatience = USUAL) -> None:
        """``kept``: where detached commands are kept; beside the file area unless it is said."""
        self._area, self._patience = area, patience
        self._consoles: dict[str, RunningCommand | Attachment] = {}
        area.mkdir(parents=True, exist_ok=True)
        self._minders = Minders()
        self._detached = DetachedExecs(self._minders, area, kept or area.parent / "detached")

    def handlers(self) -> dict[type[Message], Handler]:
        """What is answered here."""
        return {
            ExecRun: Handler(run=self._run, begins=True),
            ExecWindow: Handler(run=self._window),
            ExecSignal: Handler(run=self._signal),
            ExecInput: Handler(run=self._input),
            ExecResize: Handler(run=self._resize),
            ExecDetach: Handler(run=self._detach),
            ExecAttach: Handler(run=self._attach, begins=True),
            ExecKill: Handler(run=self._kill),
            ExecList: Handler(run=self._list),
        }

    async def sweep(self) -> None:
        """Forget in time what detached commands have left, until cancelled."""
        await self._detached.run()

    async def close(self) -> None:
        """End the detached commands that run, and start none any more. Idempotent."""
        await self._detached.close()
        self._minders.close()

    async def _run(self, call: Call, message: ExecRun) -> Reply:
        """Run a command to its end. Raises CannotRun, BadPath, ExecBusy, InputBroken, NotContained."""
        command = RunningCommand(call, self._patience)
        with self._console(message.id, command):
            return await command.run(self._minders, message, self._area)

    async def _attach(self, call: Call, message: ExecAttach) -> Reply:
        """Follow a detached command to its end. Raises ExecBusy, NoSuchExec, NotYours, ExecInterrupted."""
        attachment = Attachment(call, self._patience)
        with self._console(message.id, attachment):
            return await attachment.run(self._detached.follow(call, message.exec_id, attachment.stream))

    async def _detach(self, call: Call, message: ExecDetach) -> None:
        """Begin a detached command. Raises ExecBusy, SpoolFailed, CannotRun, BadPath."""
        await self._detached.begin(call, message)

    async def _kill(self, call: Call, message: ExecKill) -> None:
        """Signal the sender's own command. Raises NoSuchExec, NotYours."""
        attended = self._consoles.get(message.exec_id)
        if isinstance(attended, RunningCommand):
            check_yours(message.exec_id, attended.sender, call.sender)
            attended.signal(message.signal)
        else:
            self._detached.signal(message.exec_id, call.sender, message.signal)

    async def _list(self, call: Call, message: ExecList) -> Reply:
        attended = [one.row for one in self._consoles.values() if isinstance(one, RunningCommand)]
        rows = sorted([*self._detached.rows(), *attended], key=lambda row: row.since_ms)
        return ExecRows(call=message.id, commands=rows)

    async def _window(self, call: Call, message: ExecWindow) -> None:
        if command := self._own(call, message.call):
            command.stream.allow(message.limit_bytes)

    async def _signal(self, call: Call, message: ExecSignal) -> None:
        if command := self._own(call, message.call):
            command.signal(message.signal)

    async def _input(self, call: Call, message: ExecInput) -> None:
        if command := self._own(call, message.call):
            command.take(message)

    async def _resize(self, call: Call, message: ExecResize) -> None:
        if command := self._own(call, message.call):
            command.resize(message.rows, message.columns)

    def _own(self, call: Call, command_id: str) -> RunningCommand | Attachment | None:
        command = self._consoles.get(command_id)
        return command if command is not None and command.sender == call.sender else None

    @contextmanager
    def _console(self, command_id: str, command: RunningCommand | Attachment) -> Iterator[None]:
        """Know of a command for as long as the block lasts. Raises ExecBusy."""
        if len(self._consoles) >= MOST_CONSOLES:
            text = f"consoles = {len(self._consoles)}: {MOST_CONSOLES} may run or follow commands in a VM at once"
            raise ExecBusy(text, "wait for a command to end; `volcloud vm ps` lists them")
        self._consoles[command_id] = command
        try:
            yield
        finally:
            del self._consoles[command_id]
