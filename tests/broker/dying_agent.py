"""An agent in a process of its own that kills itself with SIGKILL at one named step of a command, once.

``python -m tests.broker.dying_agent CREDENTIAL DIRECTORY STEP``; not a test itself. The command appends a line to
``DIRECTORY/effects``; ``DIRECTORY/died`` tells the next process that it need not die again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from broker.address import read_address
from broker.connection import Connection
from broker.routes import queue_of
from broker.rpc import Call, Handler, Journal, Responder
from broker.rpc.clock import wall_clock
from schemas.envelope import Done, Message, Reply
from schemas.vms import VmPause


class Dying:
    """Dies at ``step``, if nobody before it has."""

    def __init__(self, directory: Path, step: str) -> None:
        self.directory, self.step = directory, step

    def at(self, step: str) -> None:
        if step == self.step and not (self.directory / "died").exists():
            (self.directory / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class DyingResponder(Responder):
    """A responder whose answers may die on their way."""

    dying: Dying

    async def send_to(self, principal: str, suffix: str, message: Message) -> None:
        self.dying.at("before the answer")
        await super().send_to(principal, suffix, message)


async def serve(credential: Path, dying: Dying) -> None:
    async def pause(call: Call, message: VmPause) -> Reply:
        dying.at("before the work")
        await call.started()
        with (dying.directory / "effects").open("a") as file:
            file.write("ran\n")
        dying.at("after the work")
        return Done(call=message.id)

    address = read_address(credential)
    connection = Connection(address, name="host")
    journal = Journal(dying.directory / "journal")
    journal.open()
    responder = DyingResponder(connection, journal, {VmPause: Handler(run=pause)}, clock=wall_clock())
    responder.dying = dying
    await connection.consume(queue_of(address.user), responder.on_delivery, prefetch=4)
    responder.recover()
    await connection.open()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Dying(Path(sys.argv[2]), sys.argv[3])))
