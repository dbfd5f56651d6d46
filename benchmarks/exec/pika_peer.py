"""``CREDENTIAL CALLS``: prints the median ms of a ping-pong of bare pika's, one at a time, and of a process.

``benchmarks.rpc.pika_peer serve`` answers it: persistent, quorum queue. The process is what the command of ours runs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pika

from benchmarks.bare import Bare
from benchmarks.figures import percentile
from benchmarks.rpc.pika_peer import BODY, QUEUE


async def ping_pongs_ms(credential: Path, calls: int) -> list[float]:
    """Ask so often, each after the answer to the one before; a tenth goes before, unmeasured."""
    bare = Bare()
    await bare.open(credential)
    declared = await bare.ask(bare.channel.queue_declare, "", exclusive=True)
    answers: asyncio.Queue[None] = asyncio.Queue()

    def take(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        answers.put_nowait(None)

    await bare.consume(declared.method.queue, take, prefetch=10)
    times = []
    for number in range(calls + calls // 10):
        began = time.perf_counter()
        properties = pika.BasicProperties(delivery_mode=2, reply_to=declared.method.queue, correlation_id=str(number))
        bare.publish(QUEUE, BODY, properties)
        await answers.get()
        times.append((time.perf_counter() - began) * 1000)
    return times[calls // 10 :]


def processes_ms(calls: int) -> list[float]:
    """Run a program so often, each after the end of the one before."""
    program = shutil.which("true") or "/bin/true"
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        os.waitpid(os.posix_spawn(program, ["true"], {}), 0)
        times.append((time.perf_counter() - began) * 1000)
    return times


if __name__ == "__main__":
    file, count = sys.argv[1:]
    sys.stdout.write(f"{percentile(asyncio.run(ping_pongs_ms(Path(file), int(count))), 0.5)}\n")
    sys.stdout.write(f"{percentile(processes_ms(int(count)), 0.5)}\n")
