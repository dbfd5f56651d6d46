"""Links to a broker that closes at the wrong moment: what is told as a refused login, and that nothing else leaks."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from pika import frame, spec
from pika.exceptions import ChannelWrongStateError, ConnectionWrongStateError

from broker.address import Address
from broker.amqp import link as link_module
from broker.amqp.link import Link
from broker.connection import Connection
from broker.delivery import Delivery, Properties, Subscription
from broker.errors import BrokerError, Crowded, Disconnected, LoginRefused
from broker.inbound import receiver
from schemas.codec import bundle, encode
from schemas.envelope import Ping
from tests.unit.amqp_peer import START, TUNE, Peer, broker, until_up

DELIVER = spec.Basic.Deliver("c", 1, False, "vc.up", "k")


async def linked(address: Address) -> Link:
    return await Link.connect(address, name="test", heartbeat_s=10)


@pytest.mark.parametrize(
    ("tuned", "close", "expected"),
    [
        (False, None, Disconnected),
        (False, (320, "shutdown"), Disconnected),
        (False, (403, "Login was refused"), LoginRefused),
        (True, None, Disconnected),
        (True, (530, "connection refused for user 'u': user connection limit (4) is reached"), Crowded),
        (True, (530, "access to vhost 'v' refused for user 'u': connection limit (4) is reached"), Crowded),
        (True, (530, "access to vhost 'v' refused for user 'u': vhost 'v' is down"), Disconnected),
        (True, (530, "access to vhost 'v' refused for user 'u'"), LoginRefused),
        (True, (530, "vhost v not found"), LoginRefused),
    ],
)
async def test_only_what_the_broker_says_of_the_credential_is_a_refused_login(
    tuned: bool, close: tuple[int, str] | None, expected: type[BrokerError]
) -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.readexactly(8)
        await peer.say(START)
        await peer.hear(spec.Connection.StartOk)
        if tuned:
            await peer.say(TUNE)
            await peer.hear(spec.Connection.Open)
        if close:
            await peer.say(spec.Connection.Close(close[0], f"NOT_ALLOWED - {close[1]}", 0, 0))
            await peer.hear(spec.Connection.CloseOk)

    async with broker(serve) as address:
        with pytest.raises(BrokerError) as caught:
            await linked(address)

    assert type(caught.value) is expected


async def test_a_subscribe_on_a_connection_that_is_closing_is_disconnected() -> None:
    async with broker(until_up) as address:
        link = await linked(address)
        link._amqp.close()

        with pytest.raises(Disconnected):
            await link._open_channel(lambda _: None)
        link.abandon()


async def test_a_publish_on_a_channel_that_is_closing_fails_its_future_and_takes_no_tag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with broker(until_up) as address:
        link = await linked(address)

        def closing(*_: object) -> None:
            raise ChannelWrongStateError("Channel is closing.")

        monkeypatch.setattr(link.publisher.channel, "basic_publish", closing)
        future = link.publisher.send("vc.up", "k", b"x", Properties(), mandatory=False)

        assert isinstance(future.exception(), Disconnected)
        assert (link.publisher._confirms.pending, link.publisher._confirms.next_tag) == ({}, 1)
        link.abandon()


def taken(channel: Any, properties: spec.BasicProperties, body: bytes, *, bundles: bool) -> list[Delivery]:
    """What a handler gets of what pika hands over."""
    came: list[Delivery] = []
    subscription = Subscription(queue="q", handler=came.append, bundles=bundles)
    receipts = link_module.receipts_of(channel, lambda work: work())
    receiver(subscription, receipts, lambda _: None)(channel, DELIVER, properties, body)
    return came


async def test_an_ack_on_a_connection_that_is_closing_does_nothing() -> None:
    class Closing:
        is_open = True

        def basic_ack(self, tag: int) -> None:
            asked.append(tag)
            raise ConnectionWrongStateError

    asked: list[int] = []
    (delivery,) = taken(Closing(), spec.BasicProperties(user_id="vm-a"), b"", bundles=False)

    delivery.ack()

    assert asked == [1]


class Settling:
    """Stands in for a channel; keeps what it was told of deliveries."""

    is_open = True

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def basic_ack(self, tag: int) -> None:
        self.told.append(("ack", tag))

    def basic_nack(self, tag: int, *, requeue: bool) -> None:
        self.told.append(("requeue" if requeue else "reject", tag))


@pytest.mark.parametrize(("rejected", "told"), [((), "ack"), ((0,), "reject"), ((1, 2), "reject")])
def test_a_bundle_is_settled_once_with_the_last_of_its_messages(rejected: tuple[int, ...], told: str) -> None:
    channel = Settling()
    bodies = [encode(Ping(id=str(number))) for number in range(3)]

    properties = spec.BasicProperties(user_id="vm-a", message_id="b")
    came = taken(channel, properties, bundle(bodies), bundles=True)
    for number, delivery in enumerate(came):
        assert channel.told == []
        delivery.reject() if number in rejected else delivery.ack()

    assert [delivery.body for delivery in came] == bodies
    assert {(d.user_id, d.routing_key) for d in came} == {("vm-a", "k")}
    assert channel.told == [(told, 1)]
    assert [delivery.spoil() for delivery in came] == [True, False, False]


@pytest.mark.parametrize(("sender", "bundles"), [("vm-a", False), ("console-a", True), ("site-a", True), ("", True)])
def test_only_who_may_sends_bundles_and_only_to_where_they_are_taken(sender: str, bundles: bool) -> None:
    body = bundle([encode(Ping()), encode(Ping())])

    (came,) = taken(Settling(), spec.BasicProperties(user_id=sender), body, bundles=bundles)

    assert came.body == came.whole == body


async def test_a_close_that_the_broker_leaves_unanswered_aborts_the_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "GOODBYE_TIMEOUT_S", 0.2)
    ended = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.log_in()
        try:
            while await peer.reader.read(65536):
                pass
        finally:
            ended.set()

    async with broker(serve) as address:
        link = await linked(address)

        await link.close()

        await asyncio.wait_for(ended.wait(), 5)
        assert link.closed.done()


async def test_a_close_returns_when_the_goodbye_is_said_and_not_when_its_first_channel_is_closed() -> None:
    said_goodbye = False

    async def serve(peer: Peer) -> None:
        nonlocal said_goodbye
        await peer.log_in()
        await peer.answer(spec.Channel.Close, spec.Channel.CloseOk())
        await peer.hear(spec.Connection.Close)
        said_goodbye = True
        await peer.say(spec.Connection.CloseOk())

    async with broker(serve) as address:
        link = await linked(address)

        await link.close()

        assert said_goodbye
        assert link._amqp.is_closed


async def test_a_broker_that_closes_while_consumers_start_ends_the_link_and_not_the_runner() -> None:
    lives = 0

    async def serve(peer: Peer) -> None:
        nonlocal lives
        lives += 1
        await peer.log_in()
        for _ in range(2):
            await peer.open_channel()
            await peer.answer(spec.Basic.Qos, spec.Basic.QosOk())
            channel, consume = await peer.hear(spec.Basic.Consume)
            started = spec.Basic.ConsumeOk(consume.consumer_tag)
            if lives == 1:
                consumed = frame.Method(channel, started).marshal()
                peer.writer.write(consumed + frame.Method(0, spec.Connection.Close(320, "bye", 0, 0)).marshal())
                await peer.hear(spec.Connection.CloseOk)
                return
            await peer.say(started, channel=channel)
        await peer.hear(spec.Connection.CloseOk)

    async with broker(serve) as address:
        connection = Connection(address, name="test")
        await connection.consume("one", lambda _: None)
        await connection.consume("two", lambda _: None)

        await asyncio.wait_for(connection.open(), 10)

        assert (lives, connection.links) == (2, 1)
        link = connection._recovery.link
        assert link is not None
        link.abandon()
        await connection.close()


async def test_the_runner_survives_an_error_that_nobody_foresaw(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(peer: Peer) -> None:
        await until_up(peer)

    asked = 0
    async with broker(serve) as address:

        async def source(_refused: bool) -> Address:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise ValueError("no address today")
            return address

        connection = Connection(source, name="test")
        with caplog.at_level(logging.ERROR):
            await asyncio.wait_for(connection.open(), 10)

        assert "link failed" in caplog.text
        assert connection.is_up
        assert connection._recovery.link is not None
        connection._recovery.link.abandon()
        await connection.close()


async def test_a_callback_that_fails_takes_neither_the_link_nor_the_others_with_it() -> None:
    async with broker(until_up) as address:
        called: list[int] = []
        connection = Connection(address, name="test")
        connection.on_up += [lambda: called.append(1 // 0), lambda: called.append(2)]

        await asyncio.wait_for(connection.open(), 10)
        await asyncio.sleep(0.05)

        assert (called, connection.is_up) == ([2], True)
        assert connection._recovery.link is not None
        connection._recovery.link.abandon()
        await connection.close()


async def test_while_a_link_is_dropped_the_connection_is_down_already(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    async with broker(until_up) as address:
        connection = Connection(address, name="test")
        await asyncio.wait_for(connection.open(), 10)
        link = connection._recovery.link
        assert link is not None

        async def close() -> None:
            seen.append(connection.is_up)
            link.abandon()

        monkeypatch.setattr(link, "close", close)
        await connection.reconnect()

        assert seen == [False]
        await connection.close()


async def test_an_outage_is_tried_as_often_as_its_connection_may_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries, enough = 0, asyncio.Event()

    async def hang_up(peer: Peer) -> None:
        nonlocal tries
        await peer.reader.readexactly(8)
        tries += 1
        if tries == 40:
            enough.set()

    caplog.set_level(logging.INFO)
    async with broker(hang_up) as address:
        connection = Connection(address, name="test", wait_most_s=0.02)
        opening = asyncio.ensure_future(connection.open())
        await asyncio.wait_for(enough.wait(), 30)
        await connection.close()
        opening.cancel()

    said = {record.why for record in caplog.records if record.message == "link down"}  # type: ignore[attr-defined]
    assert len([record for record in caplog.records if record.message == "link down"]) == len(said) < 4
