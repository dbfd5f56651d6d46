"""What a person types or pastes for a VM that is slow to take it: all of it comes, or its loss is told."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Iterator

import pytest

from tests.broker.polling import until
from volcloud.client import shell_session
from volcloud.client.shell_session import MOST_WAITING, Keys
from volcloud.errors import ShellLeft


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Give the ends of a terminal: where a person types, which never waits, and where we read."""
    person, ours = os.openpty()
    tty.setraw(ours)
    os.set_blocking(person, False)
    yield person, ours
    os.close(person)
    os.close(ours)


async def paste(person: int, data: bytes) -> None:
    """Type as fast as the terminal takes it."""
    while data:
        try:
            data = data[os.write(person, data[:4096]) :]
        except BlockingIOError:
            await asyncio.sleep(0)


async def test_a_long_paste_comes_whole_at_the_pace_of_the_vm(terminal: tuple[int, int]) -> None:
    person, ours = terminal
    said: list[str] = []
    keys, pasted = Keys(ours, said.append), os.urandom(5 * MOST_WAITING).replace(b"~", b"-")
    keys.open()
    pasting = asyncio.ensure_future(paste(person, pasted))
    await until(lambda: keys._held is not None)

    come = b""
    async with asyncio.timeout(60):
        while len(come) < len(pasted):
            come += await keys.read(1000)
    await pasting

    assert come == pasted
    assert said == []
    keys.shut()


async def test_a_vm_that_takes_no_keys_can_be_left_and_what_is_lost_is_told(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_session, "HOLD_S", 0.1)
    person, ours = terminal
    said: list[str] = []
    keys = Keys(ours, said.append)
    keys.open()

    async with asyncio.timeout(60):
        await paste(person, b"x" * (3 * MOST_WAITING) + b"\r~.")
        with pytest.raises(ShellLeft):
            await keys.leaving()
        while len(said) < 2:
            await keys.read(4096)

    waiting, lost = [int(word) for line in said for word in line.split() if word.isdecimal()]
    assert waiting >= MOST_WAITING
    assert waiting + lost == 3 * MOST_WAITING + len(b"\r")
    assert "~. leaves" in said[0]
    keys.shut()


async def test_what_is_typed_for_nobody_is_read_all_the_same(terminal: tuple[int, int]) -> None:
    person, ours = terminal
    keys = Keys(ours, lambda text: None)
    keys.open()
    pasting = asyncio.ensure_future(paste(person, b"x" * (2 * MOST_WAITING) + b"\r~."))
    await until(lambda: keys._held is not None)

    keys.close()

    async with asyncio.timeout(60):
        with pytest.raises(ShellLeft):
            await keys.leaving()
    await pasting
    keys.shut()
