"""Our contestant: ``receive CREDENTIAL DIRECTORY`` is a guest agent's end, ``send CREDENTIAL TREE NAME`` a console's.

The sender prints the seconds from the first directory read until the receiver has the whole tree, durable.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from pathlib import Path

from broker.address import read_address
from broker.connection import Connection, Delivery
from broker.routes import queue_of, reply_queue
from broker.transfer import Transfers
from broker.trees import TreeSource
from guest_agent.files import ConsoleFiles
from schemas.codec import decode
from schemas.files import FileGet, FileOffer, GuestTree

#: The console's reply queue.
SUFFIX = "tree"
#: The VM's principal.
VM = "vm-tree"


async def receive(credential: Path, directory: Path) -> None:
    """Take what is pushed until terminated."""
    address = read_address(credential)
    (directory / "files").mkdir(exist_ok=True)
    async with Connection(address, name="bench receiver") as connection:
        transfers = Transfers(connection)
        files = ConsoleFiles(transfers, directory / "files", directory / "partial")

        def on_delivery(delivery: Delivery) -> None:
            message = decode(delivery.body)
            if isinstance(message, FileOffer | FileGet):
                delivery.ack()
                files.on_opening(delivery.user_id, message)
            else:
                transfers.on_delivery(delivery)

        await connection.consume(f"{queue_of(address.user)}.files", on_delivery, prefetch=64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


async def send(credential: Path, source: Path, name: str) -> float:
    """Push the tree and give the seconds that it took."""
    address = read_address(credential)
    async with Connection(address, name="bench sender") as connection:
        transfers = Transfers(connection, my_suffix=SUFFIX)
        await connection.consume(
            reply_queue(address.user, SUFFIX),
            transfers.on_delivery,
            bind_to=("vc.up", f"*.reply.{address.user}-{SUFFIX}"),
        )
        began = time.perf_counter()
        opener = partial(os.open, source, os.O_RDONLY | os.O_DIRECTORY)
        tree = await asyncio.to_thread(TreeSource, source.name, opener)
        named = GuestTree(path=name, manifest=tree.manifest.length)
        await transfers.send(tree, FileOffer(file=named, size=tree.manifest.size, sha256=tree.sha256), VM)
        return time.perf_counter() - began


if __name__ == "__main__":
    role, file, path, *names = sys.argv[1:]
    if role == "receive":
        asyncio.run(receive(Path(file), Path(path)))
    else:
        sys.stdout.write(f"{asyncio.run(send(Path(file), Path(path), names[0]))}\n")
