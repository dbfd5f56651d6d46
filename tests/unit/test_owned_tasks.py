"""Background tasks: their errors are seen, and who owns them ends them; sleeps that somebody ends."""

from __future__ import annotations

import asyncio

import pytest

from broker.daemon.tasks import OwnedTasks, wholly
from broker.daemon.wakeup import Wakeup
from tests.broker.polling import until


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_fails_is_a_line_of_the_log_and_no_longer_owned(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("no such thing")

    tasks = OwnedTasks("cook")
    tasks.spawn(fail(), name="soup")
    await tasks.finish()
    await until(lambda: len(tasks) == 0)

    [record] = caplog.records
    assert record.getMessage() == "task failed"
    assert (record.owner, record.task) == ("cook", "soup")  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no such thing"


async def test_when_tasks_are_cancelled_they_have_ended_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = []

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            ended.append("it")

    tasks = OwnedTasks("cook")
    tasks.spawn(work())
    await asyncio.sleep(0)
    await tasks.cancel()
    await tasks.cancel()

    assert ended == ["it"]
    assert len(tasks) == 0
    assert caplog.records == []


async def test_finish_waits_for_what_a_task_does_and_gives_its_result_to_who_awaits_it() -> None:
    tasks = OwnedTasks("cook")
    gate = asyncio.Event()

    async def work() -> int:
        await gate.wait()
        return 7

    task = tasks.spawn(work())
    asyncio.get_running_loop().call_soon(gate.set)
    await tasks.finish()

    assert await task == 7


async def test_abort_asks_tasks_to_end_and_waits_for_none() -> None:
    tasks = OwnedTasks("cook")
    task = tasks.spawn(forever())
    await asyncio.sleep(0)
    tasks.abort()

    assert not task.done()
    await tasks.finish()
    assert task.cancelled()


async def test_who_is_woken_knows_it_and_sleeps_again_the_next_time() -> None:
    wakeup = Wakeup()
    wakeup.wake()

    assert await wakeup.sleep(60)
    assert not await wakeup.sleep(0)


async def test_a_wake_that_was_cleared_wakes_nobody() -> None:
    wakeup = Wakeup()
    wakeup.wake()
    wakeup.clear()

    assert not await wakeup.sleep(0)


async def test_a_sleep_without_a_limit_ends_when_it_is_woken() -> None:
    wakeup = Wakeup()
    asyncio.get_running_loop().call_soon(wakeup.wake)

    assert await wakeup.sleep(None)


async def test_what_is_to_be_done_wholly_is_done_however_often_its_caller_is_cancelled() -> None:
    go, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        ended.set()

    caller = asyncio.create_task(wholly(work()))
    for _ in range(3):
        await asyncio.wait([caller], timeout=0.001)
        caller.cancel()
    await asyncio.wait([caller], timeout=0.001)
    assert not caller.done()
    go.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_work_that_is_done_wholly_gives_what_it_gives_and_raises_what_it_raises() -> None:
    async def give() -> int:
        return 3

    async def fail() -> None:
        raise ValueError("no such thing")

    assert await wholly(give()) == 3
    with pytest.raises(ValueError, match="no such thing"):
        await wholly(fail())
