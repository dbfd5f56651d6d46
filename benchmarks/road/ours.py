"""Our contestant: ``serve WAY PLACE DIRECTORY`` is a guest's agent, ``call WAY PLACE CALLS`` or ``send WAY PLACE FILE``
its host; WAY is ``road`` or ``broker``, PLACE a socket or a credential. Prints the median of a call in ms, or the
seconds from the first byte read until the file is there."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from broker.address import read_address
from broker.carrier import Carrier
from broker.connection import Connection
from broker.daemon.garbage import collect_rarely
from broker.delivery import Delivery
from broker.inbound import Letter, take_in
from broker.road import Road
from broker.road.streams import Listener, to_socket
from broker.routes import queue_of
from broker.rpc import Call, Handler, Journal, Responder
from broker.rpc.caller import Caller
from broker.rpc.clock import wall_clock
from broker.transfer import Transfers
from broker.transfer.sending import digest_file
from guest_agent.files import ConsoleFiles
from schemas.envelope import Done
from schemas.files import FileGet, FileOffer, GuestFile
from schemas.vms import VmPause

HOST, GUEST = "console-bench", "host-bench"


@asynccontextmanager
async def _end(way: str, place: Path, *, is_guest: bool) -> AsyncIterator[Carrier]:
    """Have one end of the way."""
    if way == "broker":
        async with Connection(read_address(place), name="bench") as connection:
            yield connection
        return
    listener = Listener(place) if is_guest else None
    connect = listener.connect if listener is not None else to_socket(place)
    road = Road(connect, user=GUEST if is_guest else HOST, peer=HOST if is_guest else GUEST)
    road.start()
    try:
        if not is_guest:
            await road.wait_up()
        yield road
    finally:
        await road.close()
        if listener is not None:
            await listener.close()


async def serve(way: str, place: Path, directory: Path) -> None:
    """Answer calls and take files until terminated, as an agent's process does."""
    collect_rarely()
    journal = Journal(directory / f"road-journal-{way}")
    journal.open()
    async with _end(way, place, is_guest=True) as far:
        transfers = Transfers(far)
        files = ConsoleFiles(transfers, directory, directory / "partial")

        def on_file(delivery: Delivery) -> None:
            letter = take_in(delivery)
            delivery.ack()
            if isinstance(letter, Letter):
                opening = letter.message
                if not (isinstance(opening, FileOffer | FileGet) and files.on_opening(letter.sender, opening)):
                    transfers.on_message(letter.sender, opening)

        responder = Responder(far, journal, {VmPause: Handler(run=_pause)}, clock=wall_clock())
        await far.consume(queue_of(far.user), responder.on_delivery, prefetch=64, bundles=True)
        if way == "road":
            await far.consume(f"{queue_of(far.user)}.files", on_file, prefetch=64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


async def _pause(call: Call, message: VmPause) -> Done:
    return Done(call=message.id)


async def call(way: str, place: Path, calls: int) -> float:
    """Call one after the other, and give the median, ms; the first are warm-up."""
    async with _end(way, place, is_guest=False) as near:
        caller = Caller(near)
        await caller.open(near.user)
        times = [await _timed(caller) for _ in range(calls + calls // 10)]
    return median(times[calls // 10 :])


async def _timed(caller: Caller) -> float:
    began = time.perf_counter()
    await caller.call(GUEST, VmPause(vm="vm-bench"), Done)
    return (time.perf_counter() - began) * 1000


async def send(way: str, place: Path, source: Path) -> float:
    """Send a file, and give the seconds that it took."""
    async with _end(way, place, is_guest=False) as near:
        caller = Caller(near)
        await caller.open(near.user)
        transfers = Transfers(near, my_suffix=caller.suffix)
        caller.on_other = transfers.on_message
        began = time.perf_counter()
        size, sha256 = await asyncio.to_thread(digest_file, source)
        await transfers.send_file(source, FileOffer(file=GuestFile(path="received"), size=size, sha256=sha256), GUEST)
        return time.perf_counter() - began


if __name__ == "__main__":
    role, way, place, argument = sys.argv[1:]
    if role == "serve":
        asyncio.run(serve(way, Path(place), Path(argument)))
    elif role == "call":
        sys.stdout.write(f"{asyncio.run(call(way, Path(place), int(argument)))}\n")
    else:
        sys.stdout.write(f"{asyncio.run(send(way, Path(place), Path(argument)))}\n")
