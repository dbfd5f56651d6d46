"""Bare pika's ping-pong: ``serve CREDENTIAL -`` echoes, ``call CREDENTIAL CALLS`` asks; prints calls/s.

Requests go to a quorum queue, answers to an exclusive one, all persistent; a request is acknowledged once its answer is
confirmed. Nothing is parsed, journalled or checked: this is the limit of the road.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pika

from benchmarks.bare import Bare

QUEUE = "bench.rpc.pika"
AT_A_TIME = 50
#: As long as one of our commands.
BODY = b"x" * 200


async def serve(credential: Path) -> None:
    """Echo until terminated."""
    bare = Bare()
    await bare.open(credential)
    arguments = {"x-queue-type": "quorum"}
    await bare.ask(bare.channel.queue_declare, QUEUE, durable=True, arguments=arguments)

    def answer(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        reply = pika.BasicProperties(delivery_mode=2, correlation_id=properties.correlation_id)
        bare.publish(properties.reply_to, body, reply, lambda: channel.basic_ack(method.delivery_tag))

    await bare.consume(QUEUE, answer, prefetch=64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def call(credential: Path, calls: int) -> float:
    """Call and give the rate, calls per second."""
    bare = Bare()
    await bare.open(credential)
    declared = await bare.ask(bare.channel.queue_declare, "", exclusive=True)
    pending: dict[str, asyncio.Future[None]] = {}

    def take(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        pending.pop(properties.correlation_id).set_result(None)

    await bare.consume(declared.method.queue, take, prefetch=500)
    await _call_many(bare, declared.method.queue, pending, calls // 10)
    began = time.perf_counter()
    await _call_many(bare, declared.method.queue, pending, calls)
    return calls / (time.perf_counter() - began)


async def _call_many(bare: Bare, reply_to: str, pending: dict[str, asyncio.Future[None]], calls: int) -> None:
    numbers = iter(range(calls))

    async def one_after_another() -> None:
        for number in numbers:
            answered = pending[str(number)] = bare.loop.create_future()
            properties = pika.BasicProperties(delivery_mode=2, reply_to=reply_to, correlation_id=str(number))
            bare.publish(QUEUE, BODY, properties)
            await answered

    await asyncio.gather(*(one_after_another() for _ in range(AT_A_TIME)))


if __name__ == "__main__":
    role, file, argument = sys.argv[1:]
    if role == "serve":
        asyncio.run(serve(Path(file)))
    else:
        sys.stdout.write(f"{asyncio.run(call(Path(file), int(argument)))}\n")
