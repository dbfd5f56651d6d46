"""Threads that are kept for calls which may never come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from adapters.sources.kept_threads import KeptThreads
from tests.broker.polling import until

NAME = "kept for a test"


def alive() -> int:
    return sum(thread.name == NAME for thread in threading.enumerate())


@pytest.fixture
def threads() -> Iterator[KeptThreads]:
    kept = KeptThreads(NAME)
    yield kept
    kept.close()


async def test_calls_one_after_the_other_have_one_thread_and_those_at_once_one_each(threads: KeptThreads) -> None:
    one_after_the_other = {await threads.call(threading.get_ident) for _ in range(20)}
    together = threading.Barrier(3)
    at_once = await asyncio.gather(*(threads.call(lambda: together.wait(60)) for _ in range(3)))

    assert (len(one_after_the_other), len(set(at_once)), alive()) == (1, 3, 3)


async def test_one_that_hangs_keeps_its_thread_and_nobody_elses(threads: KeptThreads) -> None:
    over = threading.Event()
    hanging = threads.call(lambda: over.wait(60))

    others = [await threads.call(lambda n=n: n) for n in range(5)]
    is_out = not hanging.done()
    over.set()
    await hanging

    assert (others, is_out, alive()) == ([0, 1, 2, 3, 4], True, 2)


async def test_what_a_call_raises_is_raised_and_its_thread_is_kept(threads: KeptThreads) -> None:
    def fails() -> None:
        raise LookupError("there is none")

    with pytest.raises(LookupError, match="there is none"):
        await threads.call(fails)

    assert (await threads.call(lambda: 1), alive()) == (1, 1)


@pytest.mark.parametrize("end", [StopIteration("over"), SystemExit(3), KeyboardInterrupt()])
async def test_what_would_end_a_thread_or_an_iterator_is_raised_as_an_error(
    threads: KeptThreads, end: BaseException
) -> None:
    def ends() -> None:
        raise end

    with pytest.raises(RuntimeError, match=type(end).__name__):
        await threads.call(ends)

    assert (await threads.call(lambda: 1), alive()) == (1, 1)


async def test_what_a_call_gave_is_not_kept_by_its_thread(threads: KeptThreads) -> None:
    gone: list[int] = []

    class Large:
        def __del__(self) -> None:
            gone.append(1)

    await threads.call(Large)

    await until(lambda: gone)


async def test_what_nobody_waits_for_any_more_is_dropped(threads: KeptThreads) -> None:
    over = threading.Event()
    given_up = threads.call(lambda: over.wait(60))
    given_up.cancel()
    over.set()

    assert await threads.call(lambda: 1) == 1
    await until(lambda: threads._idle == alive())


async def test_after_the_end_each_thread_ends_once_its_call_is_back(threads: KeptThreads) -> None:
    over = threading.Event()
    hanging = threads.call(lambda: over.wait(60))
    await threads.call(lambda: 1)

    threads.close()
    threads.close()
    await until(lambda: alive() == 1)
    over.set()
    await hanging

    await until(lambda: alive() == 0)


def test_a_program_ends_though_a_call_never_comes_back(threads: KeptThreads) -> None:
    over = threading.Event()

    async def leaves() -> None:
        threads.call(lambda: over.wait(60))

    asyncio.run(leaves())
    threads.close()
    over.set()

    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join(60)
    assert alive() == 0
