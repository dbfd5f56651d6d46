"""A guest that runs commands, and a console, on a carrier within this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.memory import MemoryBroker, MemoryCarrier
from broker.routes import queue_of
from broker.rpc import Journal, Responder
from broker.rpc.caller import Caller
from broker.rpc.clock import wall_clock
from broker.rpc.execution import Execution
from broker.rpc.input import BytesSource
from guest_agent.console_stream import ConsolePatience
from guest_agent.execs import Execs
from schemas.execs import ExecAttach, ExecEnded, ExecRun, Stream

VM, PERSON = "vm-a-0123456789", "console-ada"
SOON = ConsolePatience(probe_every_s=0.2, gone_after_s=1.0)


class Console:
    """One who runs commands, and what he has heard."""

    def __init__(self, carrier: MemoryCarrier) -> None:
        self.carrier, self.caller = carrier, Caller(carrier)
        self.heard: dict[Stream, bytearray] = {stream: bytearray() for stream in Stream}

    @property
    def out(self) -> bytes:
        return bytes(self.heard[Stream.STDOUT])

    def execution(self, order: ExecRun | ExecAttach, stdin: bytes | None = None, **more: Any) -> Execution:
        source = None if stdin is None else BytesSource(stdin)
        more.setdefault("source", source)
        return Execution(self.carrier, self.caller, VM, order, self._take, **more)

    async def run(self, *command: str, stdin: bytes | None = None, **fields: Any) -> ExecEnded:
        order = ExecRun(command=[*command], has_input=stdin is not None, **fields)
        return await self.execution(order, stdin).run()

    async def _take(self, stream: Stream, data: bytes) -> None:
        self.heard[stream] += data


class ExecGuest:
    """See the module."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker = MemoryBroker()
        self.carrier = MemoryCarrier(VM, self.broker)
        self.carriers: list[MemoryCarrier] = []

    async def console(self, user: str = PERSON) -> Console:
        carrier = MemoryCarrier(user, self.broker)
        self.carriers.append(carrier)
        console = Console(carrier)
        await console.caller.open(user)
        return console


@asynccontextmanager
async def exec_guest(directory: Path) -> AsyncIterator[ExecGuest]:
    """Have a guest that keeps all in a directory."""
    guest = ExecGuest(directory)
    carrier = guest.carrier
    journal = Journal(directory / "journal")
    journal.open()
    execs = Execs(directory / "files", patience=SOON)
    responder = Responder(carrier, journal, execs.handlers(), clock=wall_clock())
    await carrier.consume(queue_of(VM), responder.on_delivery)
    try:
        yield guest
    finally:
        await responder.close()
        await execs.close()
        for one in (*guest.carriers, carrier):
            await one.close()
        await journal.close()
