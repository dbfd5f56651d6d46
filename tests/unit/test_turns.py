"""One principal's trouble is its own: what it asks for waits behind itself and behind nobody else."""

from __future__ import annotations

import asyncio

from broker.keys.turns import Turns
from tests.unit.wires import until


async def test_one_that_is_stuck_holds_up_nobody_else() -> None:
    turns, done = Turns(10), []
    stuck = asyncio.Event()

    async def wait() -> None:
        await stuck.wait()
        done.append("stuck")

    async def finish(name: str) -> None:
        done.append(name)

    turns.take("host-a", wait)
    turns.take("host-a", lambda: finish("behind it"))
    for name in ("host-b", "host-c"):
        turns.take(name, lambda name=name: finish(name))  # type: ignore[misc]

    await until(lambda: done == ["host-b", "host-c"])
    stuck.set()
    await until(lambda: done[2:] == ["stuck", "behind it"])
    await turns.close()


async def test_one_principal_has_no_more_waiting_than_it_may() -> None:
    turns, stuck = Turns(3), asyncio.Event()

    taken = [turns.take("host-a", lambda: stuck.wait()) for _ in range(6)]  # type: ignore[arg-type,return-value]

    assert taken == [True, True, True, False, False, False]
    assert turns.take("host-b", lambda: stuck.wait())  # type: ignore[arg-type,return-value]
    await turns.close()


async def test_whoever_is_done_is_forgotten() -> None:
    turns, done = Turns(3), []

    async def finish() -> None:
        done.append(1)

    for _ in range(3):
        turns.take("host-a", finish)
        await until(lambda: not turns._waiting)

    assert len(done) == 3
