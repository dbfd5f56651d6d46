"""A host says which VMs it has when its link is new, and from time to time, whatever fails in between."""

from __future__ import annotations

import asyncio

from broker.errors import Disconnected
from host_agent.vouching import Vouching
from schemas.enrol import EnrolVouch
from tests.unit.wires import until


async def test_a_host_vouches_again_and_again_and_at_once_when_the_link_is_new() -> None:
    said: list[list[str]] = []
    failures = [Disconnected("away")]

    async def vms() -> set[str]:
        return {"vm-b", "vm-a"}

    async def say(word: EnrolVouch) -> None:
        if failures:
            raise failures.pop()
        said.append(word.vms)

    vouching = Vouching(vms, say, every_s=0.05)
    running = asyncio.ensure_future(vouching.run())

    await until(lambda: len(said) >= 2)
    running.cancel()
    vouching = Vouching(vms, say, every_s=1000)
    said.clear()
    running = asyncio.ensure_future(vouching.run())
    await until(lambda: len(said) == 1)
    vouching.look()
    await until(lambda: len(said) == 2)

    assert said == [["vm-a", "vm-b"]] * 2
    running.cancel()
