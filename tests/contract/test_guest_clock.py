"""A real guest whose host says that a day has gone by: its clock is right when it is ready, without a word of a centre.

There is no broker here, so that nothing but the host's word can set it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.rpc.caller import Caller
from broker.rpc.execution import Execution
from host_agent.front import Front, visiting
from host_agent.guests import Guests
from host_agent.hypervisors.contract import Hypervisor
from schemas.execs import ExecRun, Stream
from tests.contract.conftest import QemuRig, eventually, roads_of, snapshots_of
from tests.contract.test_local_road import ME, VM, seed_of

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

DAY_S = 86_400.0
#: How far the clock may be off, seconds, and by how long its host's word was under way at most.
NEAR_S = 1.0
PATIENCE_S = 240.0


async def saved(driver: Hypervisor) -> None:
    await snapshots_of(driver).savestate(VM)


async def from_saved(driver: Hypervisor) -> None:
    await driver.start(VM, b"")


async def kept(driver: Hypervisor) -> None:
    await snapshots_of(driver).take(VM, "then")


async def from_kept(driver: Hypervisor) -> None:
    await snapshots_of(driver).restore(VM, "then", b"")


async def paused(driver: Hypervisor) -> None:
    await driver.pause(VM)


async def from_pause(driver: Hypervisor) -> None:
    await driver.resume(VM)


@asynccontextmanager
async def meeting(driver: Hypervisor, directory: Path) -> AsyncIterator[Guests]:
    """Have the host's end of the road, and its owner's door."""
    guests = Guests(driver, ME)
    front = asyncio.create_task(Front(directory, ME, guests).run())
    try:
        yield guests
    finally:
        front.cancel()
        await asyncio.gather(front, return_exceptions=True)
        await guests.close()


async def clock_of_guest(directory: Path) -> float:
    said: list[bytes] = []

    async def take(stream: Stream, data: bytes) -> None:
        said.append(data)

    async with visiting(directory, ME) as road:
        caller = Caller(road)
        await caller.open(ME)
        await Execution(road, caller, VM, ExecRun(command=["date", "+%s.%N"]), take).run()
    return float(b"".join(said))


async def test_a_guest_that_was_away_for_a_day_is_right_as_soon_as_it_is_told_to_run(
    qemu_rig: QemuRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused, saved, and thrown back, a day each: one guest, as its boot is what takes long."""
    driver = await qemu_rig.open()
    await driver.create(qemu_rig.spec(VM))
    await driver.start(VM, seed_of(VM, roads_of(driver).guest_end))
    now, days = time.time, [0]
    ways: list[tuple[Callable[[Hypervisor], Awaitable[None]], Callable[[Hypervisor], Awaitable[None]]]] = [
        (paused, from_pause),
        (saved, from_saved),
        (kept, from_kept),
    ]
    monkeypatch.setattr(time, "time", lambda: now() + days[-1] * DAY_S)
    async with meeting(driver, tmp_path) as guests:
        await guests.look({VM})
        await eventually(lambda: guests.facts(VM), PATIENCE_S)

        for leave, come_back in ways:
            await leave(driver)
            await guests.look(())
            days.append(len(days))
            before = time.time()
            await come_back(driver)
            await guests.back(VM, False)
            told = await clock_of_guest(tmp_path)

            assert before - NEAR_S < told < time.time() + NEAR_S, come_back.__name__
