"""Commands that a console runs in this VM: streamed output under the console's window, signals, one answer.

Beyond the window the pipe blocks, so a command can never fill anyone's memory. A console that is gone for good takes
its command with it: it is known by its reply queue, which goes with it, and which a silent command asks for as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

from msgspec import Struct

from broker.backoff import backoff
from broker.errors import Unroutable
from broker.rpc import Call, Handler
from guest_agent.confine import below
from guest_agent.payload import Payload, PayloadEnd
from schemas.envelope import Accepted, Message, Reply
from schemas.execs import (
    FIRST_WINDOW_BYTES,
    ExecEnded,
    ExecOutput,
    ExecRun,
    ExecSignal,
    ExecWindow,
    Stream,
)

log = logging.getLogger(__name__)

#: Output is sent in pieces of at most this size, bytes.
PIECE_BYTES = 64 * 1024
#: The window of a command whose output nobody takes any more.
NO_LIMIT_BYTES = 1 << 62
#: A console that has heard nothing for this long is told that its command is at work, seconds: so it is asked for.
PROBE_EVERY_S = 5.0
#: A console without a queue for this long is gone, seconds; one that reconnects after a restart takes 10 to 15.
GONE_AFTER_S = 20.0


class ConsolePatience(Struct, frozen=True):
    """How a console is asked for, and for how long it may be away."""

    probe_every_s: float = PROBE_EVERY_S
    gone_after_s: float = GONE_AFTER_S


USUAL = ConsolePatience()


class _Stream:
    """One of the two outputs of a command."""

    def __init__(self, command: RunningCommand, stream: Stream) -> None:
        self._command, self._stream = command, stream

    def take(self, data: bytes) -> bool:
        """Queue output; False when the window is used up."""
        return self._command.put(self._stream, data)


class RunningCommand:
    """A command at work: its payload, its output on the way, its window."""

    def __init__(self, call: Call, patience: ConsolePatience) -> None:
        self._call, self._patience = call, patience
        self._queue: asyncio.Queue[ExecOutput | None] = asyncio.Queue()
        self._limit = FIRST_WINDOW_BYTES
        self._taken = 0
        self.numbers = 0
        self.sender = call.sender
        self.payload: Payload | None = None

    def put(self, stream: Stream, data: bytes) -> bool:
        """Number output and queue it. Says whether more may come."""
        for start in range(0, len(data), PIECE_BYTES):
            piece = ExecOutput(
                call=self._call.message.id, number=self.numbers, stream=stream, data=data[start : start + PIECE_BYTES]
            )
            self.numbers += 1
            self._queue.put_nowait(piece)
        self._taken += len(data)
        return self._taken < self._limit

    def allow(self, limit_bytes: int) -> None:
        """The console has room."""
        self._limit = max(self._limit, limit_bytes)
        if self.payload is not None and self._taken < self._limit:
            self.payload.go_on()

    def finish(self) -> None:
        """No more output will come."""
        self._queue.put_nowait(None)

    async def send_all(self) -> None:
        """Send output in order until the end, and a sign of life in silences; a console that is gone ends the
        command."""
        while (message := await self._next()) is not None:
            if not await self._reaches_console(message):
                log.info("console gone, command killed", extra={"command": self._call.message.id})
                if self.payload is not None:
                    self.payload.signal(signal.SIGKILL)
                self.allow(NO_LIMIT_BYTES)
                return

    async def _next(self) -> Message | None:
        """Give the next piece of output, a sign of life when none comes for a while, None at the end."""
        try:
            async with asyncio.timeout(self._patience.probe_every_s):
                return await self._queue.get()
        except TimeoutError:
            return Accepted(call=self._call.message.id)

    async def _reaches_console(self, message: Message) -> bool:
        """Send something until the broker has it in the console's queue. False: that queue has been gone for long."""
        gone_at: float | None = None
        for wait_s in backoff(0.1, 2.0):
            try:
                await self._call.send(message)
                return True
            except Unroutable:
                gone_at = gone_at or time.monotonic()
                if time.monotonic() - gone_at > self._patience.gone_after_s:
                    return False
            await asyncio.sleep(wait_s)
        return False


class Execs:
    """The commands that run, by call."""

    def __init__(self, area: Path, *, patience: ConsolePatience = USUAL) -> None:
        self._area, self._patience = area, patience
        self._running: dict[str, RunningCommand] = {}
        area.mkdir(parents=True, exist_ok=True)

    def handlers(self) -> dict[type[Message], Handler]:
        """What is answered here."""
        return {
            ExecRun: Handler(run=self.run),
            ExecWindow: Handler(run=self.window),
            ExecSignal: Handler(run=self.signal),
        }

    async def run(self, call: Call, message: ExecRun) -> Reply:
        """Run a command to its end. Raises CannotRun, BadPath."""
        directory = below(self._area, message.directory) if message.directory else self._area
        command = self._running[message.id] = RunningCommand(call, self._patience)
        try:
            await call.started()
            command.payload = Payload.start(
                message.command,
                directory=directory,
                environment={**os.environ, **message.environment},
                stdout=_Stream(command, Stream.STDOUT),
                stderr=_Stream(command, Stream.STDERR),
            )
            return await self._attend(command, message)
        finally:
            del self._running[message.id]

    async def _attend(self, command: RunningCommand, message: ExecRun) -> Reply:
        sending = asyncio.create_task(command.send_all())
        try:
            ended = await _until_end(command, message.timeout_s)
            command.finish()
            await sending
        finally:
            sending.cancel()
        return ExecEnded(
            call=message.id,
            exit_status=ended.exit_status,
            output_messages=command.numbers,
            cpu_seconds=ended.figures.cpu_seconds,
            wall_seconds=ended.wall_seconds,
            timed_out=ended.timed_out,
        )

    async def window(self, call: Call, message: ExecWindow) -> None:
        """Let more output of the sender's own command go."""
        command = self._own(call, message.call)
        if command is not None:
            command.allow(message.limit_bytes)

    async def signal(self, call: Call, message: ExecSignal) -> None:
        """Pass a signal to the sender's own command."""
        command = self._own(call, message.call)
        if command is not None and command.payload is not None:
            command.payload.signal(message.signal)

    def _own(self, call: Call, command_id: str) -> RunningCommand | None:
        command = self._running.get(command_id)
        return command if command is not None and command.sender == call.sender else None


async def _until_end(command: RunningCommand, timeout_s: float) -> PayloadEnd:
    if command.payload is None:
        raise RuntimeError("a command is attended before it was started")
    return await command.payload.wait(timeout_s)
