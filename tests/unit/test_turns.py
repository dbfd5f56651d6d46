"""One principal's trouble is its own: what it asks for waits behind itself and behind nobody else."""

from __future__ import annotations

import asyncio

from broker.turns import Turns
from tests.broker.polling import until


class Stuck:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self._go = asyncio.Event()
        self._begun = 0

    async def __call__(self) -> None:
        self._begun += 1
        await self._go.wait()

    def let_go(self) -> None:
        self._go.set()

    async def begun(self, count: int) -> None:
        await until(lambda: self._begun >= count)


async def test_one_that_is_stuck_holds_up_nobody_else() -> None:
    turns, done = Turns(10, 10), []
    stuck = asyncio.Event()

    async def wait() -> None:
        await stuck.wait()
        done.append("stuck")

    async def finish(name: str) -> None:
        done.append(name)

    turns.take("host-a", wait, 10)
    turns.take("host-a", lambda: finish("behind it"), 10)
    for name in ("host-b", "host-c"):
        turns.take(name, lambda name=name: finish(name), 10)  # type: ignore[misc]

    await until(lambda: done == ["host-b", "host-c"])
    stuck.set()
    await until(lambda: done[2:] == ["stuck", "behind it"])
    await turns.close()


async def test_one_principal_has_no_more_waiting_than_it_may() -> None:
    turns, stuck = Turns(100, 100), Stuck()

    taken = [turns.take("host-a", stuck, 3) for _ in range(6)]
    await stuck.begun(1)

    assert taken == [True, True, True, False, False, False]
    assert not turns.take("host-a", stuck, 3), "what is at work counts too"
    assert turns.take("host-b", stuck, 3)
    await turns.close()


async def test_the_vms_of_one_host_have_no_more_together_than_they_may() -> None:
    turns, stuck = Turns(100, 10), Stuck()

    taken = [turns.take(f"vm-{number}", stuck, 3, "VMs of host-a") for number in range(20)]

    assert taken.count(True) == 10
    assert turns.take("vm-of-another", stuck, 3, "VMs of host-b")
    assert turns.take("host-a", stuck, 3), "the host itself is asked for none of it"
    await turns.close()


async def test_however_many_are_greedy_whoever_comes_new_finds_a_place() -> None:
    """Eight VMs with 256 messages each once held all 2,000 places, for as long as nobody took their answers."""
    turns, stuck = Turns(2000, 256), Stuck()

    for kin in range(50):
        for _ in range(256):
            turns.take(f"vm-{kin}", stuck, 256, f"VMs of host-{kin}")

    assert all(turns.take(f"vm-new-{number}", stuck, 8) for number in range(10))
    await turns.close()


async def test_places_come_back_also_from_work_that_breaks() -> None:
    turns, done = Turns(4, 4), Stuck()
    done.let_go()

    async def breaks() -> None:
        raise RuntimeError("of a bug")

    for _ in range(20):
        turns.take("vm-a", breaks, 2)
        turns.take("vm-a", breaks, 2)
        await until(lambda: not turns._waiting)

    assert turns.take("vm-a", done, 1)
    await until(lambda: not turns._waiting)
    assert (turns._all, turns._taken, turns._taken_by_kin) == (0, {}, {})


async def test_whoever_is_done_is_forgotten() -> None:
    turns, done = Turns(3, 3), []

    async def finish() -> None:
        done.append(1)

    for _ in range(3):
        turns.take("host-a", finish, 1)
        await until(lambda: not turns._waiting)

    assert len(done) == 3
