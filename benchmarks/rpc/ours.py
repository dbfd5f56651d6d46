"""Our contestant: ``serve CREDENTIAL JOURNAL`` is an agent, ``call CREDENTIAL CALLS`` a console; prints calls/s.

The command is a real one, journalled before it is acknowledged; its handler does nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from broker.address import read_address
from broker.connection import Connection
from broker.daemon.garbage import collect_rarely
from broker.routes import queue_of
from broker.rpc import Call, Handler, Journal, Responder
from broker.rpc.caller import Caller
from broker.rpc.clock import wall_clock
from schemas.envelope import Done
from schemas.vms import VmPause

AGENT = "host-bench"
AT_A_TIME = 50
#: Messages that the agent takes before it has journalled the first; they share one sync.
PREFETCH = 64


async def _pause(call: Call, message: VmPause) -> Done:
    return Done(call=message.id)


async def serve(credential: Path, journal_path: Path) -> None:
    """Answer until terminated, as an agent's process does."""
    collect_rarely()
    address = read_address(credential)
    journal = Journal(journal_path)
    journal.open()
    async with Connection(address, name="bench agent") as connection:
        responder = Responder(connection, journal, {VmPause: Handler(run=_pause)}, clock=wall_clock())
        await connection.consume(queue_of(address.user), responder.on_delivery, prefetch=PREFETCH)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


async def call(credential: Path, calls: int) -> float:
    """Call and give the rate, calls per second."""
    address = read_address(credential)
    async with Connection(address, name="bench console") as connection:
        caller = Caller(connection)
        await caller.open(address.user)
        await _call_many(caller, calls // 10)
        began = time.perf_counter()
        await _call_many(caller, calls)
        return calls / (time.perf_counter() - began)


async def _call_many(caller: Caller, calls: int) -> None:
    numbers = iter(range(calls))

    async def one_after_another() -> None:
        for _ in numbers:
            await caller.call(AGENT, VmPause(vm="vm-bench"), Done)

    await asyncio.gather(*(one_after_another() for _ in range(AT_A_TIME)))


if __name__ == "__main__":
    role, file, argument = sys.argv[1:]
    if role == "serve":
        asyncio.run(serve(Path(file), Path(argument)))
    else:
        sys.stdout.write(f"{asyncio.run(call(Path(file), int(argument)))}\n")
