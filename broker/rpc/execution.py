"""One command in one VM: started, its output taken under a window, signalled, ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable

from broker.carrier import Carrier
from broker.daemon.tasks import OwnedTasks
from broker.errors import NotDelivered, OutputLost, RemoteError
from broker.routes import down
from broker.rpc.caller import Caller
from broker.rpc.output import OutputOrder
from schemas.errors import ErrorCode
from schemas.execs import ExecEnded, ExecOutput, ExecRun, ExecSignal, ExecWindow, Stream
from schemas.ids import uuid7

#: Takes output as it comes; while it runs, the command is held back by its window.
OnOutput = Callable[[Stream, bytes], Awaitable[None]]
#: A command may end this much later than its own limit, since its end must come back to us, seconds.
GRACE_S = 60.0
#: How long telling a guest to kill a command may take, seconds.
END_S = 2.0


class Execution:
    """See the module. Belongs to the client's loop."""

    def __init__(
        self, connection: Carrier, caller: Caller, vm: str, command: ExecRun, on_output: OnOutput | None
    ) -> None:
        self._connection, self._caller = connection, caller
        self._vm, self._command = vm, command
        self._on_output = on_output
        self._order = OutputOrder()
        self._granting = OwnedTasks("execution")

    async def run(self) -> ExecEnded:
        """Run it to its end. Raises RemoteError (it cannot be run), CallTimeout, Unroutable; OutputLost when some of
        its output was lost on the way."""
        self._connection.on_up.append(self._on_reconnect)
        try:
            return await self._follow()
        except BaseException:
            await self._end()
            raise
        finally:
            self._connection.on_up.remove(self._on_reconnect)
            await self._granting.cancel()

    async def signal(self, number: int) -> None:
        """Send a signal to the command's process group. Raises NotDelivered."""
        await self._caller.cast(down(self._vm), ExecSignal(call=self._command.id, signal=number, id=uuid7()))

    async def _end(self) -> None:
        """Kill the command of a console that cannot go on, at once: the guest would notice by itself, but later."""
        with contextlib.suppress(NotDelivered, TimeoutError):
            async with asyncio.timeout(END_S):
                await self.signal(signal.SIGKILL)

    async def _follow(self) -> ExecEnded:
        timeout_s = self._command.timeout_s + GRACE_S
        ended = None
        async for _, message in self._caller.stream(self._vm, self._command, timeout_s=timeout_s):
            if isinstance(message, ExecOutput):
                await self._take(message)
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
            await self._caller.cast(down(self._vm), ExecWindow(call=self._command.id, limit_bytes=limit))
        except NotDelivered:
            return  # the link broke: the next one grants again

    def _on_reconnect(self) -> None:
        self._granting.spawn(self._allow(self._order.grant_again()))
