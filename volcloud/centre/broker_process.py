"""The broker held up: the private node started, watched, and started again with growing waits, whatever keeps it down.

A node that must listen on another port than before, because somebody has taken its own, is news that others are told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from broker.backoff import backoff
from broker.errors import NodeError
from broker.node import STOP_TIMEOUT_S, NodeAddress, PrivateNode
from volcloud.centre.child import SETTLED_S
from volcloud.centre.layout import Layout
from volcloud.centre.process_state import BROKER, write_state
from volcloud.centre.stopping import Say

T = TypeVar("T")
#: Told where the node was and where it is.
Moved = Callable[[NodeAddress, NodeAddress], Awaitable[None]]

#: How often the node's process is looked after, seconds.
_WATCH_S = 0.5
#: Waits before it is started again, seconds: the first, and what they grow to. A start takes some seconds of CPU.
_WAITS_S = (0.2, 20.0)


class BrokerProcess:
    """See the module. Belongs to the supervisor's loop; the node's calls block and have a thread of their own."""

    def __init__(self, layout: Layout, say: Say) -> None:
        self._layout, self._say = layout, say
        self._node = PrivateNode(layout.node)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="broker node")
        self._address: NodeAddress | None = None
        self._restarts = 0
        #: Set once the whole system was ready: from then on it is started again for ever.
        self.is_settled = False

    @property
    def address(self) -> NodeAddress:
        """Where it listened last. Raises NodeError before the first start."""
        return self._address or self._node.address

    async def start(self) -> None:
        """Start it; once more if need be, since a port that was free may be taken before the node has it."""
        try:
            await self._start("")
        except NodeError as error:
            self._say(f"{error}; trying once more")
            await self._start("")

    async def keep_up(self, on_moved: Moved) -> None:
        """Start it again whenever it ends, until cancelled. Raises NodeError when it fails before all is settled."""
        waits, began = backoff(*_WAITS_S), time.monotonic()
        while True:
            last_end = await self._ended()
            if time.monotonic() - began > SETTLED_S:
                waits = backoff(*_WAITS_S)
            before = self.address
            self._restarts += 1
            self._say(f"the broker ended with {last_end}; starting it again, for the {self._restarts}. time")
            began = await self._start_again(last_end, next(waits))
            if self.address != before:
                await on_moved(before, self.address)

    async def stop(self, patience_s: float = STOP_TIMEOUT_S) -> None:
        """Stop it and wait until it is gone. The last call."""
        await self._in_thread(lambda: self._node.stop(timeout_s=patience_s))
        self._thread.shutdown()
        self._layout.record(BROKER).unlink(missing_ok=True)

    async def _ended(self) -> str:
        """Wait until it does not run and say how it ended."""
        while True:
            status = await asyncio.to_thread(self._node.wait, _WATCH_S)
            if not self._node.is_running():
                return "a failed start" if status is None else f"exit status {status}"

    async def _start_again(self, last_end: str, wait_s: float) -> float:
        """Try once; wait after a failure. Gives when it was tried."""
        began = time.monotonic()
        try:
            await self._start(last_end)
        except NodeError as error:
            if not self.is_settled:
                raise
            self._say(f"{error}; next try in {wait_s:.0f} s")
            await asyncio.sleep(wait_s)
        return began

    async def _start(self, last_end: str) -> None:
        self._address = await self._in_thread(lambda: self._node.start(self._say))
        if (pid := self._node.pid) is not None:
            self._record(pid, last_end)

    def _record(self, pid: int, last_end: str) -> None:
        """Keep since when it runs, for ``status``; the node's own record is what is believed."""
        try:
            write_state(self._layout.record(BROKER), BROKER, pid, restarts=self._restarts, last_end=last_end)
        except OSError as error:
            self._say(f"the broker runs, but its record cannot be written: {error}")

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Run a call of the node's in its thread; calls come one after the other, also when the waiter is gone."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
