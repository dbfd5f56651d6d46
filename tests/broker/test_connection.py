"""The connection against a real broker: confirms, refusals, reconnects, what a lost link does to what is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from broker.address import Address
from broker.connection import Connection, Delivery
from broker.entities import Declarer
from broker.errors import Disconnected, Forbidden, LoginRefused, Nacked, QueueGone, Unroutable
from schemas.endpoints import Endpoint
from tests.broker.polling import until
from tests.broker.proxy import Proxy

Mint = Callable[..., Address]


async def publish_many(connection: Connection, exchange: str, key: str, count: int, size: int) -> None:
    for _ in range(count):
        await connection.publish(exchange, key, bytes(size), persistent=False)


async def test_a_published_message_comes_with_its_sender_checked_by_the_broker(mint: Mint) -> None:
    vm, adapter = mint("vm"), mint("adapter", "job-1")
    came: list[Delivery] = []
    async with Connection(vm, name="vm") as sender, Connection(adapter, name="adapter") as receiver:
        await receiver.consume("vc.beats", came.append)  # type: ignore[arg-type]

        await sender.publish("vc.up", f"{vm.user}.beat", b"body", message_id="m1")

        await until(lambda: bool(came))
        assert (came[0].user_id, came[0].routing_key, came[0].body) == (vm.user, f"{vm.user}.beat", b"body")
        came[0].ack()


async def test_a_message_to_nobody_is_unroutable(mint: Mint) -> None:
    adapter = mint("adapter", "job-1")
    async with Connection(adapter, name="adapter") as connection:
        with pytest.raises(Unroutable):
            await connection.publish("vc.down", "vm.nobody", b"x")


async def test_a_full_queue_refuses_and_the_connection_lives_on(mint: Mint) -> None:
    vm, adapter = mint("vm"), mint("adapter", "job-1")
    key = vm.user.replace("-", ".", 1)
    async with Connection(adapter, name="adapter") as connection:
        with pytest.raises(Nacked):
            await publish_many(connection, "vc.down", key, 400, 1 << 19)

        await connection.publish("vc.up", "adapter-job-1.reply.x-y", b"x", mandatory=False)


async def test_a_key_of_another_is_forbidden(mint: Mint) -> None:
    vm = mint("vm")
    async with Connection(vm, name="vm") as connection:
        with pytest.raises(Forbidden):
            await connection.publish("vc.up", "vm-other.beat", b"x")


async def test_a_wrong_password_is_refused_at_once(mint: Mint) -> None:
    vm = mint("vm")
    connection = Connection(msgspec.structs.replace(vm, password="wrong"), name="vm")

    with pytest.raises(LoginRefused):
        await connection.open(patience_s=20)


async def test_a_queue_that_is_not_there_is_said_at_once(mint: Mint) -> None:
    console = mint("console")
    connection = Connection(console, name="console")
    await connection.consume(f"vc.replies.{console.user}.abc", lambda d: None)

    with pytest.raises(QueueGone):
        await connection.open(patience_s=20)


async def test_no_broker_at_all_ends_with_the_patience(mint: Mint) -> None:
    nowhere = Address(endpoints=(Endpoint("127.0.0.1", 1),), user="vm-a", password="x")

    with pytest.raises(Disconnected, match="no broker in 1 s: Connection refused"):
        await Connection(nowhere, name="vm").open(patience_s=1)


async def test_after_a_cut_it_comes_back_and_consumes_again(mint: Mint) -> None:
    vm, adapter = mint("vm"), mint("adapter", "job-1")
    came: list[bytes] = []

    def take(delivery: Delivery) -> None:
        came.append(delivery.body)
        delivery.ack()

    async with Proxy(vm) as proxy:
        behind = proxy.address
        async with Connection(behind, name="vm") as agent, Connection(adapter, name="adapter") as centre:
            await agent.consume(vm.user.replace("-", ".", 1), take, prefetch=4)
            proxy.cut()
            await until(lambda: agent.links == 2)

            await centre.publish("vc.down", vm.user.replace("-", ".", 1), b"hello")

            await until(lambda: bool(came))
            assert came == [b"hello"]


async def test_a_publish_cut_in_flight_is_said_to_be_unknown_and_deliver_repeats_it(mint: Mint) -> None:
    vm, adapter = mint("vm"), mint("adapter", "job-1")
    bodies: list[bytes] = []

    def take(delivery: Delivery) -> None:
        bodies.append(delivery.body)
        delivery.ack()

    async with Proxy(vm) as proxy, Connection(adapter, name="adapter") as centre:
        await centre.consume("vc.beats", take)
        async with Connection(proxy.address, name="vm") as agent:
            proxy.watch = lambda up, down: proxy.cut() if proxy.cuts == 0 and up > 300_000 else None

            with pytest.raises(Disconnected):
                await publish_many(agent, "vc.up", f"{vm.user}.beat", 50, 100_000)
            await agent.deliver("vc.up", f"{vm.user}.beat", b"again", message_id="m")

            await until(lambda: b"again" in bodies)


async def test_thousands_of_publishes_at_once_are_all_confirmed(mint: Mint) -> None:
    vm, adapter = mint("vm"), mint("adapter", "job-1")
    count = 0

    def take(delivery: Delivery) -> None:
        nonlocal count
        count += 1
        delivery.ack()

    async with Connection(vm, name="vm") as agent, Connection(adapter, name="adapter") as centre:
        await centre.consume("vc.beats", take, prefetch=500)

        await asyncio.gather(*(agent.publish("vc.up", f"{vm.user}.beat", b"x") for _ in range(3000)))

        await until(lambda: count >= 3000)
        assert count == 3000


async def test_an_address_source_is_asked_again_when_the_principal_is_deleted(mint: Mint, declarer: Declarer) -> None:
    first, second = mint("vm"), mint("vm")
    asked: list[bool] = []

    async def source(refused: bool) -> Address:
        asked.append(refused)
        return second if refused else msgspec.structs.replace(first, password="old")

    async with Connection(source, name="vm") as connection:
        assert connection.user == second.user

    assert asked == [False, True]
