"""Looks at VMs that overlap: each caller hears of the VMs that it asked for, whoever asks for fewer meanwhile."""

from __future__ import annotations

import asyncio

from host_agent.looks import Looks
from tests.broker.polling import until


async def test_a_vm_that_is_deleted_while_it_is_looked_at_ends_nobody() -> None:
    may_see, asked = asyncio.Event(), []

    async def look(vm: str) -> str:
        asked.append(vm)
        await may_see.wait()
        return f"{vm} runs"

    looks = Looks(look, lambda: None)
    first = asyncio.ensure_future(looks.all(["v1", "v2"], lambda vm: f"{vm}?"))
    await until(lambda: len(asked) == 2)
    second = asyncio.ensure_future(looks.all(["v1"], lambda vm: f"{vm}?"))
    await asyncio.sleep(0)
    may_see.set()

    assert await first == ["v1 runs", "v2 runs"]
    assert await second == ["v1 runs"]


async def test_a_look_at_a_vm_that_is_gone_ends_with_its_owner() -> None:
    ended: list[str] = []

    async def look(vm: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(vm)
        return vm

    looks = Looks(look, lambda: None)
    first = asyncio.ensure_future(looks.all(["v1", "v2"], lambda vm: vm))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(looks.all([], lambda vm: vm))
    await second
    first.cancel()

    await looks.close()

    assert sorted(ended) == ["v1", "v2"]
