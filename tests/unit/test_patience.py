"""A broker that is frozen, or gone in the midst: what waits for it ends in time, and the loop turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from pika import spec

from broker.amqp import link as link_module
from broker.amqp.link import Link
from broker.connection import Connection
from broker.errors import Disconnected
from broker.rpc import caller as caller_module
from broker.rpc.caller import Caller
from schemas.envelope import Done, Ping
from tests.unit.amqp_peer import Peer, broker
from volcloud import AsyncClient
from volcloud.client import session
from volcloud.errors import Unreachable


async def ticks_while(work: Awaitable[object]) -> int:
    """Count the turns that a clock of 10 ms gets while ``work`` runs."""
    count = 0

    async def tick() -> None:
        nonlocal count
        while True:
            await asyncio.sleep(0.01)
            count += 1

    clock = asyncio.ensure_future(tick())
    try:
        await work
    finally:
        clock.cancel()
    return count


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limits, shorter."""
    monkeypatch.setattr(link_module, "ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(link_module, "GOODBYE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(caller_module, "BROKER_PATIENCE_S", 0.6)
    monkeypatch.setattr(caller_module, "STATE_EVERY_S", 0.3)


async def serve_caller(peer: Peer) -> None:
    """Log in, and give a caller its reply queue."""
    await peer.log_in()
    await peer.open_channel()
    channel, declare = await peer.hear(spec.Queue.Declare)
    await peer.say(spec.Queue.DeclareOk(declare.queue, 0, 0), channel=channel)
    await peer.answer(spec.Queue.Bind, spec.Queue.BindOk())
    await peer.answer(spec.Basic.Qos, spec.Basic.QosOk())
    channel, consume = await peer.hear(spec.Basic.Consume)
    await peer.say(spec.Basic.ConsumeOk(consume.consumer_tag), channel=channel)


async def stay(peer: Peer) -> None:
    """Keep the socket open, and say nothing."""
    while await peer.reader.read(65536):
        pass


async def call_over(serve: Callable[[Peer], Awaitable[None]]) -> int:
    """Make one call over a broker that ``serve`` plays; give the ticks of the loop meanwhile."""
    async with broker(serve) as address, Connection(address, name="console") as connection:
        caller = Caller(connection)
        await caller.open("console-a")

        async def call() -> None:
            with pytest.raises(Disconnected, match="no broker in"):
                await caller.call("host-a", Ping(), Done)

        return await ticks_while(call())


async def test_a_link_that_breaks_with_a_publish_unconfirmed_leaves_the_loop_turning() -> None:
    lives = 0

    async def serve(peer: Peer) -> None:
        nonlocal lives
        lives += 1
        if lives == 1:
            await serve_caller(peer)
            await peer.hear(spec.Basic.Publish)

    began = time.monotonic()
    ticks = await call_over(serve)

    assert ticks > 10
    assert time.monotonic() - began < 10


async def test_a_broker_that_freezes_before_the_confirm_ends_the_call() -> None:
    async def serve(peer: Peer) -> None:
        await serve_caller(peer)
        await stay(peer)

    assert await call_over(serve) > 10


async def test_a_broker_that_freezes_after_the_confirm_ends_the_call_when_it_is_asked_again() -> None:
    async def serve(peer: Peer) -> None:
        await serve_caller(peer)
        channel, _ = await peer.hear(spec.Basic.Publish)
        await peer.say(spec.Basic.Ack(1, False), channel=channel)
        await stay(peer)

    assert await call_over(serve) > 10


async def test_a_word_without_an_answer_ends_too() -> None:
    async def serve(peer: Peer) -> None:
        await serve_caller(peer)
        await stay(peer)

    async with broker(serve) as address, Connection(address, name="console") as connection:
        caller = Caller(connection)
        await caller.open("console-a")

        with pytest.raises(Disconnected, match="does not confirm"):
            await caller.cast(("vc.down", "host.a"), Ping())  # type: ignore[arg-type]


async def test_a_broker_that_accepts_and_says_nothing_ends_the_opening_in_time() -> None:
    async with broker(stay) as address:
        connection = Connection(address, name="console")
        began = time.monotonic()

        with pytest.raises(Disconnected, match=r"no broker in 0 s: it does not answer"):
            await connection.open(patience_s=0.4)

        assert time.monotonic() - began < 3


async def test_who_waits_for_a_broker_that_is_not_there_hears_of_it_before_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "SAY_AFTER_S", 0.2)
    monkeypatch.setattr(session, "PATIENCE_S", 1.5)
    said: list[str] = []
    async with broker(stay) as address:
        pass

    with pytest.raises(Unreachable, match=r"does not answer in 1\.5 s"):
        await AsyncClient(address, said.append).open()

    assert said == [f"waiting for the broker at {address.where}: Connection refused"]


async def test_a_broker_that_opens_no_channel_breaks_the_link() -> None:
    async def serve(peer: Peer) -> None:
        await peer.log_in()
        await stay(peer)

    async with broker(serve) as address:
        link = await Link.connect(address, name="test", heartbeat_s=10)

        with pytest.raises(Disconnected, match="did not answer"):
            await link._open_channel(lambda _: None)

        assert link.closed.done()


@pytest.mark.parametrize("moment_s", [0.0, 0.05, 0.3])
async def test_an_opening_that_is_cancelled_ends_at_once_and_leaves_no_task(moment_s: float) -> None:
    async with broker(stay) as address:
        before = asyncio.all_tasks()
        connection = Connection(address, name="console")
        opening = asyncio.ensure_future(connection.open(patience_s=0.3))
        await asyncio.sleep(moment_s)

        opening.cancel()
        await asyncio.wait([opening], timeout=3)

        assert opening.done()
        ours = [task for task in asyncio.all_tasks() - before if "connection" in task.get_name()]
        assert [task for task in ours if not task.done()] == []


async def test_a_broker_that_takes_nothing_for_want_of_disk_is_told_in_its_own_words() -> None:
    async def serve(peer: Peer) -> None:
        await serve_caller(peer)
        await peer.say(spec.Connection.Blocked("low on disk"))
        await stay(peer)

    async with broker(serve) as address, Connection(address, name="console") as connection:
        caller = Caller(connection)
        await caller.open("console-a")
        with pytest.raises(Disconnected, match="it takes no messages for now: low on disk"):
            await caller.call("host-a", Ping(), Done)


async def test_a_broker_that_takes_messages_again_is_blamed_for_its_silence_only() -> None:
    async def serve(peer: Peer) -> None:
        await serve_caller(peer)
        await peer.say(spec.Connection.Blocked("low on disk"))
        await peer.say(spec.Connection.Unblocked())
        await stay(peer)

    async with broker(serve) as address, Connection(address, name="console") as connection:
        caller = Caller(connection)
        await caller.open("console-a")
        with pytest.raises(Disconnected, match="it took the message and does not confirm it"):
            await caller.call("host-a", Ping(), Done)
