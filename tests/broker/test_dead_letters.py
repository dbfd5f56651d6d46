"""The dead letters on a real broker: looked at without a change, whatever is in them, and by one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from adapters.job.rejected import Rejected
from broker.address import Address
from broker.connection import Connection, Delivery
from broker.dead_letters import DeadLetterPublisher
from broker.entities import Declarer
from broker.node import NodeAddress
from broker.offences import LETTERS
from broker.routes import REJECTED, queue_of
from tests.broker.polling import until
from tests.broker.raw_amqp import Raw, properties, short, table, timestamp
from volcloud.dead_letters import DeadLetter, DeadLetters

Mint = Callable[..., Address]

HOSTILE = table(("when", timestamp(1 << 50)), ("x-death", b"V"))


@asynccontextmanager
async def centre(address: Address, *queues: str) -> AsyncIterator[DeadLetterPublisher]:
    """An adapter that can take nothing of what comes, and what agents reject."""
    async with Connection(address, name="adapter") as connection:
        dead_letters = DeadLetterPublisher(connection)

        async def publish(delivery: Delivery) -> None:
            await dead_letters.publish(delivery, "undecodable", delivery.flaw or "nonsense")

        for queue in queues:
            await connection.consume(queue, publish)
        await connection.consume("vc.rejected", Rejected(dead_letters).on_delivery)
        yield dead_letters


async def letters_of(address: NodeAddress) -> list[DeadLetter]:
    return await asyncio.to_thread(DeadLetters(address.administration).list)


async def until_there(address: NodeAddress, count: int) -> list[DeadLetter]:
    async with asyncio.timeout(30):
        while len(found := await letters_of(address)) < count:
            pass
    return found


async def test_looking_again_and_again_changes_nothing(address: NodeAddress, mint: Mint) -> None:
    vm = mint("vm")
    async with centre(mint("adapter", "job-1"), "vc.inventory"), Connection(vm, name="vm") as stranger:
        for number in range(3):
            await stranger.publish("vc.up", f"{vm.user}.inventory", b"\xc1%d" % number)
        before = await until_there(address, 3)

        async with asyncio.timeout(120):
            for _ in range(10):
                assert await letters_of(address) == before

    assert [letter.body for letter in before] == [b"\xc10", b"\xc11", b"\xc12"]


def test_the_dead_letters_are_looked_at_more_often_than_anybody_ever_will(declarer: Declarer) -> None:
    """What the broker itself does a hundred times over: give them out and take them back."""
    with declarer.channel() as channel:
        channel.basic_publish(channel.prepare_message(b"letter"), exchange="vc.dead")
    for _ in range(120):
        with declarer.channel() as channel:
            message = channel.basic_get("vc.dead", no_ack=False)
            assert message is not None
            channel.basic_reject(message.delivery_tag, requeue=True)


async def test_those_who_look_at_once_all_see_all(address: NodeAddress, mint: Mint) -> None:
    """Again and again: two come at the same moment only now and then."""
    vm = mint("vm")
    async with centre(mint("adapter", "job-1"), "vc.inventory"), Connection(vm, name="vm") as stranger:
        for number in range(5):
            await stranger.publish("vc.up", f"{vm.user}.inventory", b"\xc1%d" % number)
        before = await until_there(address, 5)

        for _ in range(8):
            seen = await asyncio.gather(*(letters_of(address) for _ in range(3)))
            assert seen == [before] * 3


async def test_a_letter_whose_headers_nobody_can_read_is_kept_shown_and_dropped(
    address: NodeAddress, mint: Mint
) -> None:
    vm = mint("vm")
    async with centre(mint("adapter", "job-1"), "vc.inventory"):
        with Raw(vm) as stranger:
            stranger.publish(
                "vc.up", f"{vm.user}.inventory", properties(user_id=short(vm.user), headers=HOSTILE), b"\xc1"
            )
            stranger.confirmed()
        (letter,) = await until_there(address, 1)

        dropped = await asyncio.to_thread(DeadLetters(address.administration).drop, letter.id)

    assert (letter.sender, letter.key) == (vm.user, f"{vm.user}.inventory")
    assert letter.reason == "undecodable: properties: a time after the year 9999"
    assert dropped == letter
    assert await letters_of(address) == []


async def test_what_an_agent_rejects_is_a_letter_of_its_sender_whatever_its_headers(
    address: NodeAddress, mint: Mint
) -> None:
    console, host = mint("console"), mint("host")
    queue = queue_of(host.user)
    async with centre(mint("adapter", "job-1")), Connection(host, name="host") as agent:
        await agent.consume(queue, lambda delivery: delivery.reject())
        with Raw(console) as stranger:
            stranger.publish("vc.down", queue, properties(user_id=short(console.user), headers=table()), b"one")
            stranger.publish("vc.down", queue, properties(user_id=short(console.user), headers=HOSTILE), b"two")
            stranger.confirmed()

        letters = await until_there(address, 2)

    assert {(one.sender, one.exchange, one.key) for one in letters} == {(console.user, "vc.down", queue)}
    assert {one.queue for one in letters} == {queue}
    assert {one.body for one in letters} == {b"one", b"two"}


async def test_an_agent_that_rejects_and_reports_without_end_has_its_share_and_no_more(
    address: NodeAddress, mint: Mint, declarer: Declarer
) -> None:
    vm, other = mint("vm"), mint("vm")
    adapter = mint("adapter", "job-1")
    async with centre(adapter) as dead_letters, Connection(vm, name="vm") as flood:
        await flood.consume(queue_of(vm.user), lambda delivery: delivery.reject())
        async with Connection(other, name="other") as decent:
            await decent.publish("vc.up", f"{other.user}.refused", b"first")
            await until_there(address, 1)
            words = [flood.publish("vc.up", f"{vm.user}.refused", b"%d" % n) for n in range(3 * LETTERS)]
            await asyncio.gather(*words)
        async with Connection(adapter, name="sends") as sender:
            orders = [sender.publish("vc.down", queue_of(vm.user), b"order") for _ in range(3 * LETTERS)]
            await asyncio.gather(*orders)
        await until(lambda: dead_letters._offences._dropped[vm.user] >= 5 * LETTERS, 60)

        letters = await letters_of(address)

    assert [one.body for one in letters if one.sender == other.user] == [b"first"]
    assert len(letters) <= 1 + LETTERS


def test_there_is_an_exchange_for_what_agents_reject(declarer: Declarer) -> None:
    """A passive declaration of one that is not there is refused."""
    with declarer.channel() as channel:
        channel.exchange_declare(REJECTED, "fanout", passive=True)
