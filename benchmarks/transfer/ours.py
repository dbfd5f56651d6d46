"""Our contestant: ``receive CREDENTIAL TARGET`` is a storage adapter's end, ``send CREDENTIAL FILE`` a VM's.

The sender prints the seconds from the first byte read until the receiver has the whole file, durable.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from broker.address import read_address
from broker.connection import Connection, Delivery
from broker.routes import queue_of
from broker.transfer import Transfers, into_file
from broker.transfer.peer import ANY_ADAPTER
from broker.transfer.sending import digest_file
from schemas.codec import decode
from schemas.files import FileOffer, InputFile


async def receive(credential: Path, target: Path) -> None:
    """Take what is offered until terminated."""
    address = read_address(credential)
    connection = Connection(address, name="bench receiver")
    transfers = Transfers(connection)
    taking: set[asyncio.Task[None]] = set()

    def on_opening(delivery: Delivery) -> None:
        delivery.ack()
        offer = decode(delivery.body)
        if isinstance(offer, FileOffer) and not transfers.is_open(offer.id):
            land = into_file(target, target.with_suffix(".part"))
            taking.add(asyncio.ensure_future(transfers.receive_file(offer, land, delivery.user_id)))

    async with connection:
        await connection.consume("vc.offers", on_opening, prefetch=64)
        await connection.consume(f"vc.chunks.{address.user}", transfers.on_delivery, prefetch=256)
        await connection.consume(f"vc.control.{address.user}", transfers.on_delivery, prefetch=256)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


async def send(credential: Path, source: Path) -> float:
    """Send the file and give the seconds that it took."""
    address = read_address(credential)
    async with Connection(address, name="bench sender") as connection:
        transfers = Transfers(connection)
        await connection.consume(f"{queue_of(address.user)}.files", transfers.on_delivery, prefetch=64)
        began = time.perf_counter()
        size, sha256 = await asyncio.to_thread(digest_file, source)
        await transfers.send_file(
            source, FileOffer(file=InputFile(sha256=sha256), size=size, sha256=sha256), ANY_ADAPTER
        )
        return time.perf_counter() - began


if __name__ == "__main__":
    role, file, path = sys.argv[1:]
    if role == "receive":
        asyncio.run(receive(Path(file), Path(path)))
    else:
        sys.stdout.write(f"{asyncio.run(send(Path(file), Path(path)))}\n")
