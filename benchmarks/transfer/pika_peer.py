"""The bare road: ``receive CREDENTIAL TARGET`` and ``send CREDENTIAL FILE``; the sender prints the seconds it took.

Read, hash, publish; consume, hash, write, sync; the receiver answers with its digest. A window of confirms bounds what
is on its way. Nothing is resumed, checked by the chunk, or confined: this is the limit of the road.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pika

from benchmarks.bare import Bare

QUEUE, DONE = "bench.transfer.pika", "bench.transfer.pika.done"
CHUNK_BYTES = 128 * 1024
#: Chunks published and not confirmed: 1 MiB.
WINDOW = 8
TRANSIENT = pika.BasicProperties(delivery_mode=1)


async def receive(credential: Path, target: Path) -> None:
    """Take files until terminated; an empty message ends one."""
    bare = await _open(credential)
    state = {"file": target.open("wb"), "digest": hashlib.sha256()}

    def take(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if body:
            state["file"].write(body)
            state["digest"].update(body)
        else:
            state["file"].flush()
            os.fsync(state["file"].fileno())
            bare.publish(DONE, state["digest"].digest(), TRANSIENT)
        channel.basic_ack(method.delivery_tag)

    await bare.consume(QUEUE, take, prefetch=64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def send(credential: Path, source: Path) -> float:
    """Send the file and give the seconds that it took."""
    bare = await _open(credential)
    answered = bare.loop.create_future()
    await bare.consume(DONE, lambda channel, method, properties, body: answered.set_result(body), prefetch=1)
    window = asyncio.Semaphore(WINDOW)
    digest = hashlib.sha256()
    began = time.perf_counter()
    with source.open("rb", buffering=0) as file:
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
            await window.acquire()
            bare.publish(QUEUE, data, TRANSIENT, window.release)
    bare.publish(QUEUE, b"", TRANSIENT)
    if await answered != digest.digest():
        raise RuntimeError("the digests differ")
    return time.perf_counter() - began


async def _open(credential: Path) -> Bare:
    bare = Bare()
    await bare.open(credential)
    for queue in (QUEUE, DONE):
        await bare.ask(bare.channel.queue_declare, queue, durable=True)
        await bare.ask(bare.channel.queue_purge, queue)
    return bare


if __name__ == "__main__":
    role, file, path = sys.argv[1:]
    if role == "receive":
        asyncio.run(receive(Path(file), Path(path)))
    else:
        sys.stdout.write(f"{asyncio.run(send(Path(file), Path(path)))}\n")
