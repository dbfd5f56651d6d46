"""What is on its way to one console: a command's output under the console's window, and signs of life in silences.

A console that is gone for good is known by its reply queue, which goes with it, and which a silent command asks for as
well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct

from broker.backoff import backoff
from broker.errors import Unroutable
from broker.rpc import Call
from schemas.envelope import Accepted, Message
from schemas.execs import FIRST_WINDOW_BYTES, ExecOutput, Stream

#: Output is sent in pieces of at most this size, bytes.
PIECE_BYTES = 64 * 1024
#: The window of a command whose output nobody takes any more.
NO_LIMIT_BYTES = 1 << 62
#: The most that a console may have under way, whatever it grants, bytes: it grants one window more at each reconnect.
MOST_AHEAD_BYTES = 16 * FIRST_WINDOW_BYTES
#: A console that has heard nothing for this long is told that its command is at work, seconds: so it is asked for.
PROBE_EVERY_S = 5.0
#: A console without a queue for this long is gone, seconds; one that reconnects after a restart takes 10 to 15.
GONE_AFTER_S = 20.0


class ConsolePatience(Struct, frozen=True):
    """How a console is asked for, and for how long it may be away."""

    probe_every_s: float = PROBE_EVERY_S
    gone_after_s: float = GONE_AFTER_S


USUAL = ConsolePatience()


class ConsoleStream:
    """See the module. ``send_all`` sends what is put, until ``finish``."""

    def __init__(self, call: Call, patience: ConsolePatience) -> None:
        self._call, self._patience = call, patience
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._limit = FIRST_WINDOW_BYTES
        self._taken = 0
        #: Pieces of output so far.
        self.numbers = 0
        self._is_gone = False
        #: Called when the console has given more room.
        self.on_room: Callable[[], None] = lambda: None
        #: Gives what is said in a silence.
        self.sign_of_life: Callable[[], Message] = lambda: Accepted(call=call.message.id)

    @property
    def has_room(self) -> bool:
        """More output may come."""
        return self._taken < self._limit

    def put(self, stream: Stream, data: bytes) -> bool:
        """Number output and queue it; let it go where the console is gone. Says whether more may come."""
        for start in range(0, 0 if self._is_gone else len(data), PIECE_BYTES):
            some = data[start : start + PIECE_BYTES]
            self._queue.put_nowait(
                ExecOutput(call=self._call.message.id, number=self.numbers, stream=stream, data=some)
            )
            self.numbers += 1
        self._taken += len(data)
        return self.has_room

    def say(self, message: Message) -> None:
        """Queue something else for the console."""
        self._queue.put_nowait(message)

    def allow(self, limit_bytes: int) -> None:
        """The console has room; for no more than ``MOST_AHEAD_BYTES`` at a time, whatever it says."""
        self._limit = max(self._limit, min(limit_bytes, self._taken + MOST_AHEAD_BYTES))
        if self.has_room:
            self.on_room()

    def let_go(self) -> None:
        """The console is gone: what comes is taken, and kept nowhere."""
        self._is_gone, self._limit = True, NO_LIMIT_BYTES
        self.on_room()

    def finish(self) -> None:
        """No more will come."""
        self._queue.put_nowait(None)

    async def send_all(self) -> bool:
        """Send in order until the end. False: the console is gone; whatever comes is let go then."""
        while (message := await self._next()) is not None:
            if not await self._reaches_console(message):
                self.let_go()
                return False
        return True

    async def _next(self) -> Message | None:
        """Give what is next, a sign of life when nothing comes for a while, None at the end."""
        try:
            async with asyncio.timeout(self._patience.probe_every_s):
                return await self._queue.get()
        except TimeoutError:
            return self.sign_of_life()

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


class ConsoleSink:
    """One of the two outputs of a command. See ``Sink``."""

    def __init__(self, console: ConsoleStream, stream: Stream) -> None:
        self._console, self._stream = console, stream

    def take(self, data: bytes) -> bool:
        """Queue output; False when the window is used up."""
        return self._console.put(self._stream, data)
