"""Guests of one host that want the same input wait for one fetch; one that stalls holds nobody up."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import TransferFailed
from broker.transfer.landing import Open
from host_agent.inputs import fetches as fetches_module
from host_agent.inputs.fetches import InputFetches
from host_agent.inputs.store import InputStore
from schemas.errors import ErrorCode
from tests.broker.polling import until

CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
VM, OTHER = "vm-a-0123456789", "vm-a-9876543210"


class Line:
    """A way to the centre that gives when it is let."""

    def __init__(self, directory: Path) -> None:
        self.store = InputStore(directory, limit_bytes=1 << 20, spare_bytes=0)
        self.store.open()
        self.fetches = InputFetches(self.store, self.fetch)
        self.asked: list[tuple[str, str]] = []
        self.given = asyncio.Event()
        self.given_up = 0

    async def fetch(self, sha256: str, vm: str, land: Open, progress: Callable[[int], None]) -> None:
        self.asked.append((sha256, vm))
        try:
            await self.given.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        landing = land(len(CONTENT))
        landing.write([CONTENT])
        progress(len(CONTENT))
        landing.commit(sha256)
        landing.close()


async def test_two_guests_wait_for_one_fetch(tmp_path: Path) -> None:
    line = Line(tmp_path)
    waiting = [asyncio.ensure_future(line.fetches.fetch(SHA256, vm)) for vm in (VM, OTHER)]
    await until(lambda: line.asked)

    line.given.set()
    found = await asyncio.gather(*waiting)

    assert line.asked == [(SHA256, VM)]
    assert {one.path.read_bytes() for one in found} == {CONTENT}
    assert (line.fetches.made, line.fetches.fetched_bytes) == (1, len(CONTENT))


async def test_one_guest_that_gives_up_takes_nothing_from_the_other(tmp_path: Path) -> None:
    line = Line(tmp_path)
    first, second = (asyncio.ensure_future(line.fetches.fetch(SHA256, vm)) for vm in (VM, OTHER))
    await until(lambda: line.asked)

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    line.given.set()

    assert (await second).path.read_bytes() == CONTENT


async def test_what_nobody_waits_for_is_given_up_and_who_comes_later_begins_anew(tmp_path: Path) -> None:
    line = Line(tmp_path)
    only = asyncio.ensure_future(line.fetches.fetch(SHA256, VM))
    await until(lambda: line.asked)

    only.cancel()
    later = asyncio.ensure_future(line.fetches.fetch(SHA256, OTHER))
    await until(lambda: line.given_up and len(line.asked) == 2)
    line.given.set()

    assert (await later).path.read_bytes() == CONTENT


async def test_a_fetch_to_which_nothing_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches_module, "STALLED_S", 0.1)
    line = Line(tmp_path)

    with pytest.raises(TransferFailed, match="nothing has come") as caught:
        await line.fetches.fetch(SHA256, VM)

    assert (caught.value.code, line.given_up) == (ErrorCode.TIMEOUT, 1)


async def test_what_the_centre_refuses_is_told_to_all_who_wait(tmp_path: Path) -> None:
    line = Line(tmp_path)

    async def refuse(*_: object) -> None:
        raise TransferFailed(ErrorCode.FORBIDDEN, "it holds no attempt")

    fetches = InputFetches(line.store, refuse)
    told = await asyncio.gather(*(fetches.fetch(SHA256, vm) for vm in (VM, OTHER)), return_exceptions=True)

    assert [str(one) for one in told] == ["it holds no attempt"] * 2
