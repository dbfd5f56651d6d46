"""One command in one VM: started, its input and output under windows, signalled, ended. Or one that is attached to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from broker.carrier import Carrier
from broker.daemon.tasks import OwnedTasks
from broker.errors import NotDelivered, OutputLost, RemoteError
from broker.routes import down
from broker.rpc.caller import ACCEPT_TIMEOUT_S, Caller
from broker.rpc.input import InputFeed, InputSource
from broker.rpc.output import OutputOrder
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.execs import (
    ExecAttach,
    ExecEnded,
    ExecInputWindow,
    ExecOutput,
    ExecResize,
    ExecRun,
    ExecSignal,
    ExecWindow,
    Stream,
)
from schemas.ids import uuid7

#: Takes output as it comes; while it runs, the command is held back by its window.
OnOutput = Callable[[Stream, bytes], Awaitable[None]]
#: A command may end this much later than its own limit, since its end must come back to us, seconds.
GRACE_S = 60.0
#: How long telling a guest to kill a command may take, seconds.
END_S = 2.0
#: How long one may stay attached, seconds: ten years, which is for ever.
ATTACHED_S = 10 * 365 * 86400.0


class Execution:
    """See the module. Belongs to the client's loop."""

    def __init__(
        self,
        connection: Carrier,
        caller: Caller,
        vm: str,
        command: ExecRun | ExecAttach,
        on_output: OnOutput | None,
        *,
        source: InputSource | None = None,
        patience_s: float = ACCEPT_TIMEOUT_S,
    ) -> None:
        """``source`` gives the standard input of a command that has one; ``patience_s`` is how long the agent may take
        to say that it is at it: a command that has not begun by then never does."""
        self._connection, self._caller = connection, caller
        self._vm, self._command = vm, command
        self._on_output, self._patience_s = on_output, patience_s
        self._order = OutputOrder()
        self._granting = OwnedTasks("execution")
        #: Monotonic time at which the VM was heard of last.
        self.heard_at = time.monotonic()
        self._feed = None if source is None else InputFeed(command.id, source, self._cast)

    async def run(self) -> ExecEnded:
        """Run it to its end. Raises RemoteError (it cannot be run), CallTimeout, Unroutable; OutputLost when some of
        its output was lost on the way; what the source of its input raises."""
        self._connection.on_up.append(self._on_reconnect)
        following = asyncio.ensure_future(self._follow())
        feeding = [] if self._feed is None else [asyncio.ensure_future(self._feed.run())]
        try:
            return await first_of(following, feeding)
        except BaseException:
            await self._end()
            raise
        finally:
            self._connection.on_up.remove(self._on_reconnect)
            for task in (following, *feeding):
                task.cancel()
            await asyncio.gather(following, *feeding, return_exceptions=True)
            if self._feed is not None:
                self._feed.close()  # also one that never began to feed
            await self._granting.cancel()

    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group. Raises NotDelivered."""
        await self._cast(ExecSignal(call=self._command.id, signal=number, id=uuid7()))

    async def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size. Raises NotDelivered."""
        await self._cast(ExecResize(call=self._command.id, rows=rows, columns=columns, id=uuid7()))

    async def _end(self) -> None:
        """Kill the command of a console that cannot go on, at once: the guest would notice by itself, but later."""
        with contextlib.suppress(NotDelivered, TimeoutError):
            async with asyncio.timeout(END_S):
                await self.signal(signal.SIGKILL)

    async def _follow(self) -> ExecEnded:
        timeout_s = self._command.timeout_s + GRACE_S if isinstance(self._command, ExecRun) else ATTACHED_S
        stream = self._caller.stream(
            self._vm,
            self._command,
            timeout_s=timeout_s,
            accept_s=self._patience_s,
            begin_s=self._patience_s,
        )
        ended = None
        async for _, message in stream:
            self.heard_at = time.monotonic()
            if isinstance(message, ExecOutput):
                await self._take(message)
            elif isinstance(message, ExecInputWindow) and self._feed is not None:
                self._feed.allow(message)
            elif isinstance(message, ExecEnded):
                ended = message
        if ended is None:
            raise RemoteError(
                ErrorCode.INTERNAL, f"{self._vm} ended the command without an end", "update the agent in it"
            )
        if lost := self._order.finish(ended.output_messages):
            text = f"the command ended with {ended.exit_status}; {lost} pieces of its output were lost in a reconnect"
            raise OutputLost(text)
        return ended

    async def _take(self, piece: ExecOutput) -> None:
        data = self._order.take(piece)
        if data and self._on_output is not None:
            await self._on_output(piece.stream, data)
        if (limit := self._order.grant()) is not None:
            await self._allow(limit)

    async def _allow(self, limit: int) -> None:
        try:
            await self._cast(ExecWindow(call=self._command.id, limit_bytes=limit))
        except NotDelivered:
            return  # the link broke: the next one grants again

    async def _cast(self, message: Message) -> None:
        await self._caller.cast(down(self._vm), message)

    def _on_reconnect(self) -> None:
        self._granting.spawn(self._allow(self._order.grant_again()))


async def first_of(wanted: asyncio.Future[ExecEnded], others: Sequence[asyncio.Future[None]]) -> ExecEnded:
    """Wait for one, and for what any other raises before it has ended."""
    waiting: set[asyncio.Future[Any]] = {wanted, *others}
    while not wanted.done():
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for other in done - {wanted}:
            other.result()
    return wanted.result()
