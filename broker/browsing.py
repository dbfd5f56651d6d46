"""Browsing a queue: its messages are looked at and not taken. All of it comes, oldest first, and goes back as it was.

One browses at a time, by a lock: who comes second waits. A quorum queue lets two consumers in, each to a part of it,
whatever they say of ``exclusive``; and what they give back comes in another order then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.address import Address
from broker.backoff import backoff
from broker.connection import Connection, Delivery
from broker.errors import Disconnected, Forbidden

#: How long another may browse before this gives up, and how long all may take to come, seconds.
PATIENCE_S = 8.0
#: How long nothing has come when all is there, seconds; longer where there is nothing: what another has just looked at
#: comes back all at once, a moment after he has gone.
QUIET_S, QUIET_EMPTY_S = 0.2, 1.5


@asynccontextmanager
async def browse(address: Address, queue: str, most: int) -> AsyncIterator[list[Delivery]]:
    """Give up to ``most`` messages of a queue; those that are not acknowledged in the block are back after it.

    Raises Disconnected, QueueGone, LoginRefused; Forbidden when another browses it all the time.
    """
    connection, came = await _browse_alone(address, queue, most)
    try:
        yield came
    finally:
        await connection.close()


async def _browse_alone(address: Address, queue: str, most: int) -> tuple[Connection, list[Delivery]]:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    for wait_s in backoff(0.1, 1.0):
        connection = Connection(address, name="browses the dead letters")
        try:
            await connection.open(patience_s=PATIENCE_S)
            await connection.lock(f"{queue}.browser")
            return connection, await _all_of(connection, queue, most)
        except Forbidden:
            await connection.close()
            if asyncio.get_running_loop().time() + wait_s > deadline:
                raise
            await asyncio.sleep(wait_s)
        except BaseException:
            await connection.close()
            raise
    raise AssertionError("backoff has no end")


async def _all_of(connection: Connection, queue: str, most: int) -> list[Delivery]:
    """Take what lies there. Raises Forbidden while another's are not back: his lock may be gone before he is."""
    waiting, consumers = await connection.depth(queue)
    if consumers:
        raise Forbidden(f"{queue}: another browses it")
    expected = min(most, waiting)
    came: list[Delivery] = []
    await connection.consume(queue, came.append, prefetch=most)
    try:
        async with asyncio.timeout(PATIENCE_S):
            before = -1
            while len(came) < expected or len(came) > before:
                before = len(came)
                await asyncio.sleep(QUIET_S if came else QUIET_EMPTY_S)
    except TimeoutError as error:
        if len(came) < expected:
            raise Disconnected(f"of {expected} messages {len(came)} came in {PATIENCE_S:.0f} s") from error
    return came
