"""What a lane is at, as its ledger has it, and what is said of calls that do not come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from adapters.errors import LedgerUnavailable
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.sources import lane
from adapters.sources.at_work import AtWork
from tests.broker.polling import until


class SlowWriter:
    """A ledger whose one thread carries out writes in their order, each when the test says so, or fails it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[Tx], Any], asyncio.Future[Any]]] = []

    async def write(self, work: Callable[[Tx], Any]) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append((work, done))
        return await done

    def next(self, error: Exception | None = None) -> None:
        work, done = self.waiting.pop(0)
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(work(cast(Tx, None)))


class Desk:
    """A lane's work over such a ledger, and what that was told to be at work."""

    def __init__(self) -> None:
        self.writer = SlowWriter()
        self.renewed: list[Sequence[str]] = []
        self.at_work: AtWork[str] = AtWork("test", cast(LedgerWriter, self.writer), self._renew)

    def _renew(self, _: Tx, keys: Sequence[str]) -> None:
        self.renewed.append(keys)

    async def writing(self, count: int) -> None:
        await until(lambda: len(self.writer.waiting) == count)


async def test_what_fails_while_the_ledger_is_told_what_is_at_work_is_not_at_work_for_it() -> None:
    desk = Desk()
    desk.at_work.begin("a", lambda: desk.at_work.write(lambda _: None))
    await desk.writing(1)
    desk.at_work.doubt()
    telling = asyncio.create_task(desk.at_work.renew())
    await desk.writing(2)

    # The ledger is away for the word of "a", and there again for what is at work, "a" among it.
    desk.writer.next(LedgerUnavailable("away"))
    desk.writer.next()
    await telling
    telling = asyncio.create_task(desk.at_work.renew())
    await desk.writing(1)
    desk.writer.next()
    await telling

    assert desk.renewed == [["a"], []]


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), ValueError("a fault of ours")])
async def test_whatever_ends_a_piece_of_work_it_is_not_at_work_for_the_ledger_either(error: Exception) -> None:
    desk = Desk()

    async def fails() -> None:
        raise error

    desk.at_work.begin("a", fails)
    while not desk.writer.waiting:
        telling = asyncio.create_task(desk.at_work.renew())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    desk.writer.next()
    await telling

    assert desk.renewed == [[]]


async def test_a_word_about_what_is_at_work_that_was_lost_is_said_again() -> None:
    desk = Desk()
    desk.at_work.doubt()
    for error in (LedgerUnavailable("away"), None):
        telling = asyncio.create_task(desk.at_work.renew())
        await desk.writing(1)
        desk.writer.next(error)
        await asyncio.wait({telling})
        assert telling.exception() is error
    await desk.at_work.renew()

    assert desk.renewed == [[]]


async def test_a_call_that_does_not_come_back_is_told_for_as_long_as_it_is_out_whatever_else_goes_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "SILENT_S", 0.05)
    troubles, over = lane.Troubles(), threading.Event()
    hand = lane.Lane("deliver", troubles, threads=2)
    turns: list[str] = []

    async def turn() -> float:
        turns.append(str(troubles))
        return 0.01

    running = asyncio.create_task(hand.run(turn))
    call = asyncio.create_task(hand.call(over.wait, 60))
    await until(lambda: "no answer" in str(troubles))
    before = len(turns)
    await until(lambda: len(turns) > before + 10)
    over.set()
    await call
    await until(lambda: not str(troubles))
    running.cancel()

    assert all("deliver: no answer for" in words for words in turns[before : before + 10])
