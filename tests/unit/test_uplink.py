"""What an agent says together goes as one bundle: at once when one of them hurries, after a moment when none does."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from broker.errors import CallTimeout, RemoteError, Unroutable
from broker.memory import MemoryCarrier
from broker.rpc import Uplink
from schemas.codec import BUNDLE_BYTES, MOST_IN_BUNDLE, decode, unbundle
from schemas.envelope import Done, Failed, Message, Ping
from schemas.errors import ErrorCode
from tests.broker.polling import until


class Wire(MemoryCarrier):
    """A carrier that may be made to refuse."""

    def __init__(self) -> None:
        super().__init__("vm-a")
        self.error: Exception | None = None

    async def deliver(self, exchange: str, key: str, body: bytes, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        await super().deliver(exchange, key, body, **options)

    def ids(self) -> list[list[str]]:
        return [[decode(one).id for one in unbundle(body)] for _, _, body in self.sent]


@pytest.fixture
def wire() -> Wire:
    return Wire()


def uplink_of(wire: Wire) -> Uplink:
    return Uplink(wire, lambda: 7)


def said(uplink: Uplink, message: Message, within_s: float, kind: str = "completion") -> asyncio.Future[None]:
    return asyncio.ensure_future(uplink.publish_batched(kind, message, within_s=within_s))


async def test_those_that_can_wait_go_with_the_one_that_hurries(wire: Wire) -> None:
    uplink = uplink_of(wire)
    await asyncio.gather(said(uplink, Ping(id="1"), 60), said(uplink, Ping(id="2"), 60), said(uplink, Ping(id="3"), 0))

    assert wire.ids() == [["1", "2", "3"]]
    assert wire.sent[0][:2] == ("vc.up", "vm-a.completion")
    assert {decode(one).generation for one in unbundle(wire.sent[0][2])} == {7}


async def test_with_none_in_a_hurry_they_go_after_their_moment(wire: Wire) -> None:
    uplink = uplink_of(wire)

    await asyncio.gather(said(uplink, Ping(id="1"), 0.02), said(uplink, Ping(id="2"), 0.02))
    await said(uplink, Ping(id="3"), 0.02)

    assert wire.ids() == [["1", "2"], ["3"]]


async def test_each_kind_goes_its_own_way(wire: Wire) -> None:
    uplink = uplink_of(wire)

    waiting = said(uplink, Ping(id="1"), 60)
    await said(uplink, Ping(id="2"), 0, kind="request")

    assert (wire.ids(), waiting.done()) == ([["2"]], False)
    waiting.cancel()


async def test_a_full_bundle_does_not_wait(wire: Wire) -> None:
    uplink = uplink_of(wire)

    many = [said(uplink, Ping(id=str(number)), 60) for number in range(MOST_IN_BUNDLE + 1)]
    await asyncio.gather(*many[:-1])

    assert [len(ids) for ids in wire.ids()] == [MOST_IN_BUNDLE]
    many[-1].cancel()


async def test_a_bundle_grows_to_its_bytes_and_a_longer_message_goes_alone(wire: Wire) -> None:
    uplink = uplink_of(wire)
    long = Done(call="c", trace="x" * BUNDLE_BYTES)

    await asyncio.gather(
        said(uplink, Ping(id="1"), 60),
        said(uplink, msgspec.structs.replace(long, id="2"), 60),
        said(uplink, Ping(id="3"), 0),
    )

    assert wire.ids() == [["1"], ["2"], ["3"]]


async def test_whoever_gives_up_does_not_take_the_others_with_it(wire: Wire) -> None:
    uplink = uplink_of(wire)

    first, second = said(uplink, Ping(id="1"), 0.02), said(uplink, Ping(id="2"), 0.02)
    await asyncio.sleep(0)
    first.cancel()
    await second

    assert wire.ids() == [["1", "2"]]


async def test_all_are_told_when_nobody_takes_their_bundle(wire: Wire) -> None:
    uplink = uplink_of(wire)
    wire.error = Unroutable("no queue")

    outcomes = await asyncio.gather(
        said(uplink, Ping(id="1"), 60), said(uplink, Ping(id="2"), 0), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [Unroutable, Unroutable]


async def test_each_of_a_bundle_has_its_own_answer(wire: Wire) -> None:
    uplink = uplink_of(wire)

    asked = [
        asyncio.ensure_future(uplink.ask_batched("completion", Ping(id=i), timeout_s=t, within_s=0.01))
        for i, t in (("1", 5.0), ("2", 5.0), ("3", 0.05))
    ]
    await until(lambda: wire.ids() == [["1", "2", "3"]])
    uplink.on_answer(Failed(call="2", code=ErrorCode.STORE, message="full"))
    uplink.on_answer(Done(call="1"))
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)

    assert isinstance(first, Done)
    assert isinstance(second, RemoteError)
    assert isinstance(third, CallTimeout)
    assert not uplink.on_answer(Done(call="3"))
