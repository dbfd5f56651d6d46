"""What is done for many at once: whoever waits has it done, whatever becomes of those who came with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from adapters.sources.gathering import Gathering
from tests.broker.polling import until


class Work:
    """Notes what it is called for; each call waits until it is let go on."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.bad: set[int] = set()

    async def __call__(self, items: Sequence[int]) -> int:
        self.calls.append(list(items))
        await self.gate.wait()
        if self.bad & set(items):
            raise ValueError(f"{sorted(self.bad)} is bad")
        return sum(items)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_comes_while_some_is_done_is_done_together_next_time() -> None:
    work = Work()
    gathering = Gathering(work, 3)
    work.gate.clear()

    tasks = [asyncio.create_task(gathering.add(1))]
    await until(lambda: work.calls)
    tasks += [asyncio.create_task(gathering.add(number)) for number in (2, 3, 4, 5)]
    await settled()
    work.gate.set()

    assert await asyncio.gather(*tasks) == [1, 9, 9, 9, 5]
    assert work.calls == [[1], [2, 3, 4], [5]]


async def test_what_fails_fails_for_all_that_were_together_and_who_comes_alone_is_alone() -> None:
    work = Work()
    gathering = Gathering(work, 10)
    work.bad = {2}

    together = await asyncio.gather(*(gathering.add(number) for number in (1, 2, 3)), return_exceptions=True)
    alone = await asyncio.gather(*(gathering.add(number, alone=True) for number in (1, 2, 3)), return_exceptions=True)

    assert [type(one) for one in together] == [ValueError] * 3
    assert [alone[0], type(alone[1]), alone[2]] == [1, ValueError, 3]
    assert work.calls == [[1, 2, 3], [1], [2], [3]]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_who_is_cancelled_leaves_the_others_theirs(cancelled: int) -> None:
    work = Work()
    gathering = Gathering(work, 10)
    work.gate.clear()
    tasks = [asyncio.create_task(gathering.add(number)) for number in (1, 2, 3)]
    await settled()

    tasks[cancelled].cancel()
    await settled()
    work.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(one) for n, one in enumerate(results) if n == cancelled] == [asyncio.CancelledError]
    assert [one for n, one in enumerate(results) if n != cancelled] == [6, 6]


async def test_after_a_failure_others_go_on() -> None:
    work = Work()
    gathering = Gathering(work, 10)
    work.bad = {1}
    with pytest.raises(ValueError):
        await gathering.add(1)

    assert await gathering.add(2) == 2
