"""A person at a command's terminal in a VM: what he types goes there, and what is meant for us does not.

What is pasted waits in the terminal while the VM takes it slower than that, so that none of it is lost. Where the VM or
the broker takes nothing, keys are read all the same, so that a person can leave whatever hangs, and told to be lost.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Future

from broker.carrier import Carrier
from broker.errors import Disconnected, NotDelivered
from broker.rpc.execution import Execution, first_of
from schemas.execs import ExecEnded
from volcloud.errors import ShellLeft
from volcloud.escape import Escape
from volcloud.loop_thread import LoopThread

#: Keys that wait for a VM here, bytes; more wait in the terminal, for as long as the VM takes some in so many seconds.
MOST_WAITING, HOLD_S = 1 << 20, 5.0
#: A silence so long is told, seconds; a broker that is away for so long ends the session.
TELL_AFTER_S, LINK_PATIENCE_S = 12.0, 60.0
#: Between two looks at whether there is silence, seconds.
LOOK_S = 1.0


class Keys:
    """What is typed at a terminal. See ``InputSource``; belongs to the loop that reads it."""

    def __init__(self, descriptor: int, say: Callable[[str], None]) -> None:
        """``say`` shows the person a line."""
        self._descriptor, self._say = descriptor, say
        self._escape = Escape()
        self._waiting = bytearray()
        self._has_ended = self._is_closed = False
        #: Set while the terminal is not read, since enough waits; and what was lost since the VM takes none.
        self._held: asyncio.TimerHandle | None = None
        self._lost: int | None = None
        self._has_come, self._left = asyncio.Event(), asyncio.Event()

    def open(self) -> None:
        """Begin to listen."""
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_keys)

    def close(self) -> None:
        """Keep what is typed for nobody: it is listened to until ``shut``, since a person may still want to leave."""
        self._is_closed = True
        self._waiting.clear()
        self._listen()

    def shut(self) -> None:
        """Listen no more. Idempotent."""
        self._has_ended = True
        self._release()
        asyncio.get_running_loop().remove_reader(self._descriptor)

    def say(self, text: str) -> None:
        """Show the person a line."""
        self._say(text)

    async def read(self, most: int) -> bytes:
        """Wait for keys for the VM, and give them."""
        while not self._waiting and not self._has_ended:
            self._has_come.clear()
            await self._has_come.wait()
        piece = bytes(self._waiting[:most])
        del self._waiting[:most]
        self._on_taken()
        return piece

    async def leaving(self) -> None:
        """Wait until the person leaves. Raises ShellLeft."""
        await self._left.wait()
        raise ShellLeft("left by ~. : the command and all that it started in the VM were ended")

    def _on_keys(self) -> None:
        try:
            data = os.read(self._descriptor, 4096)
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            self.shut()
        typed = self._escape.take(data)
        if typed.asks:
            self._say("~. leaves and ends the command; ~~ is a tilde; ~? shows this")
        if typed.leaves:
            self._left.set()
        self._keep(typed.data)
        self._has_come.set()

    def _keep(self, data: bytes) -> None:
        if self._lost is not None:
            self._lost += len(data)
        elif not self._is_closed:
            self._waiting += data
            if len(self._waiting) >= MOST_WAITING:
                self._hold()

    def _hold(self) -> None:
        """Leave what is typed to the terminal until the VM takes some, but not for long: it may be to leave."""
        loop = asyncio.get_running_loop()
        self._release()
        loop.remove_reader(self._descriptor)
        self._held = loop.call_later(HOLD_S, self._lose)

    def _lose(self) -> None:
        self._lost = 0
        self._say(f"the VM takes no keys: those behind the first {len(self._waiting)} bytes are lost; ~. leaves")
        self._listen()

    def _on_taken(self) -> None:
        if self._lost:
            self._say(f"{self._lost} bytes that were typed meanwhile are lost")
        self._lost = None
        if self._held is not None and len(self._waiting) >= MOST_WAITING:
            self._hold()
        else:
            self._listen()

    def _release(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None

    def _listen(self) -> None:
        """Read the terminal again, where that was left off."""
        if self._held is not None and not self._has_ended:
            self.open()
        self._release()


class ShellSession:
    """A command on a terminal that a person sits at. For the thread that waits for it."""

    def __init__(self, thread: LoopThread, execution: Execution, keys: Keys, carrier: Carrier) -> None:
        self._thread, self._execution, self._keys, self._carrier = thread, execution, keys, carrier
        self._work: Future[ExecEnded] = thread.start(self._run())

    def wait(self) -> ExecEnded:
        """Wait for its end. Raises ShellLeft, Disconnected, and what ``Execution.run`` raises."""
        return self._thread.result(self._work)

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal in the VM another size; at once, and without a word if that fails."""
        self._thread.start(self._resize(rows, columns))

    async def _run(self) -> ExecEnded:
        self._keys.open()
        running = asyncio.ensure_future(self._execution.run())
        others = [asyncio.ensure_future(one) for one in (self._keys.leaving(), self._watch())]
        try:
            return await first_of(running, others)
        finally:
            for task in (running, *others):
                task.cancel()
            await asyncio.gather(running, *others, return_exceptions=True)
            self._keys.shut()

    async def _resize(self, rows: int, columns: int) -> None:
        try:
            await self._execution.resize(rows, columns)
        except NotDelivered:
            return

    async def _watch(self) -> None:
        """Tell of a silence, once. Raises Disconnected when the broker has been away for long."""
        down_since: float | None = None
        is_told = False
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            down_since = None if self._carrier.is_up else (down_since or now)
            if down_since is not None and now - down_since > LINK_PATIENCE_S:
                raise Disconnected(f"no broker in {LINK_PATIENCE_S:.0f} s: {self._carrier.trouble}")
            silent_s = now - self._execution.heard_at
            if silent_s > TELL_AFTER_S and not is_told:
                why = "the broker is away" if down_since is not None else "its VM is paused, busy or cut off"
                self._keys.say(f"nothing has been heard of the command for {silent_s:.0f} s: {why}; ~. leaves")
            is_told = silent_s > TELL_AFTER_S
