"""Two ends on each kind of carrier, for tests that hold on all of them: one who calls, and a VM's agent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from broker.address import Address
from broker.carrier import Carrier
from broker.connection import Connection
from broker.memory import MemoryBroker, MemoryCarrier
from broker.road import Road
from broker.road.streams import Listener, to_socket
from broker.routes import UP

Mint = Callable[..., Address]
#: What the centre's queues are for, on a carrier that does not know it.
CENTRE = {"vc.requests": "*.request", "vc.completions": "*.completion"}


class Ends:
    """Both ends, which are up, and how to break what is between them."""

    def __init__(self, near: Carrier, far: Carrier, cut: Callable[[], Any], *, is_told: bool) -> None:
        self.near, self.far, self.cut = near, far, cut
        self._is_told = is_told

    def reading(self, queue: str) -> dict[str, Any]:
        """Give how one of the centre's queues is consumed here."""
        return {} if self._is_told else {"bind_to": (UP, CENTRE[queue])}


@asynccontextmanager
async def ends_on(carrier: str, near: Address, far: Address, directory: Path) -> AsyncIterator[Ends]:
    """Have two ends on ``amqp``, ``memory`` or ``road``."""
    async with AsyncExitStack() as stack:
        if carrier == "amqp":
            console, agent = Connection(near, name="near"), Connection(far, name="far")
            for one in (agent, console):
                await one.open()
                stack.push_async_callback(one.close)
            yield Ends(console, agent, agent.reconnect, is_told=True)
        elif carrier == "memory":
            broker = MemoryBroker()
            for queue, kind in CENTRE.items():
                broker.bind(queue, UP, kind)
            caller, called = MemoryCarrier(near.user, broker), MemoryCarrier(far.user, broker)
            for each in (called, caller):
                stack.push_async_callback(each.close)

            async def cut_and_mend() -> None:
                called.cut()
                called.mend()

            yield Ends(caller, called, cut_and_mend, is_told=True)
        else:
            listener = Listener(directory / "road.sock")
            guest = Road(listener.connect, user=far.user, peer=near.user)
            host = Road(to_socket(directory / "road.sock"), user=near.user, peer=far.user)
            for end in (guest, host):
                end.start()
                stack.push_async_callback(end.close)
            stack.push_async_callback(listener.close)
            for end in (guest, host):
                await end.wait_up()

            async def drop_stream() -> None:
                assert host._wire._stream is not None
                host._wire._stream.close()

            yield Ends(host, guest, drop_stream, is_told=False)
