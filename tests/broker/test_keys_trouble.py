"""The key manager in trouble with one principal: it is settled, and the others go on."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from broker.address import Address
from broker.connection import Connection
from broker.errors import Nacked
from broker.inbound import recall
from broker.keys import service
from broker.minting import unmint
from broker.principals import parse_principal
from broker.routes import queue_of, up
from schemas.codec import encode
from schemas.enrol import EnrolGrant, EnrolGranted, EnrolTrade
from schemas.envelope import Failed, Message
from schemas.ids import new_vm
from tests.broker.polling import until
from tests.broker.test_keys import Centre, Mint, Talker, centre, granted_by, host

__all__ = ["centre"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience for tests."""
    monkeypatch.setattr(service, "ANSWER_S", 2.0)
    monkeypatch.setattr(service, "PATIENCE_S", 2.0)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few places, before the key manager starts, taken for long: what fills 2,000 fills them too."""
    monkeypatch.setattr(service, "PREFETCH", 60)
    monkeypatch.setattr(service, "ANSWER_S", 60.0)


async def fill(console: Talker, key: str) -> None:
    """Write to a queue until it takes no more, not even a short answer."""
    for size in (500_000, 10_000, 100):
        with contextlib.suppress(Nacked):
            for _ in range(200):
                await console.connection.publish("vc.down", key, bytes(size))
            pytest.fail("the queue has no end")


async def test_fifty_names_that_are_too_long_make_nobody_deaf(centre: Centre, declarer) -> None:  # type: ignore[no-untyped-def]
    """A VM's name of 1 MiB made an answer that could not be sent; fifty were never settled, also after a restart."""
    keeper, other = await host(centre), await host(centre, "host-k2")
    long = encode(EnrolGrant(vm="x" * 1_000_000, generation=1))

    await asyncio.gather(*(keeper.connection.publish(*up("host-k1", "enrol"), long) for _ in range(50)))

    assert isinstance(await granted_by(other, new_vm("host-k2")), EnrolGranted)
    with declarer.channel() as channel:
        await until(lambda: not channel.queue_declare("vc.enrol", passive=True).message_count, 30)
    assert isinstance(await granted_by(keeper, new_vm("host-k1")), EnrolGranted)
    await keeper.connection.close()
    await other.connection.close()


async def test_a_host_that_does_not_read_its_queue_holds_up_nobody(centre: Centre, quick: None) -> None:
    """Everybody once heard "no answer to enrol in 30 s"."""
    other = await host(centre, "host-k2")
    async with Talker(centre.address("console-k1")) as console, Talker(centre.address("host-k1")) as deaf:
        await fill(console, "host.k1")
        for _ in range(20):
            grant = EnrolGrant(vm=new_vm("host-k1"), generation=1)
            await deaf.connection.publish(*up("host-k1", "enrol"), encode(grant), message_id=grant.id)

        for _ in range(3):
            assert isinstance(await asyncio.wait_for(granted_by(other, new_vm("host-k2")), 10), EnrolGranted)
    await other.connection.close()


async def test_a_queue_that_exists_otherwise_is_its_principals_trouble(centre: Centre, declarer) -> None:  # type: ignore[no-untyped-def]
    """It was once tried for ever, in turn, as "broker away"."""
    keeper, other = await host(centre), await host(centre, "host-k2")
    vm = new_vm("host-k1")
    with declarer.channel() as channel:
        channel.queue_declare(queue_of(vm), durable=True, auto_delete=False)
    granted = await granted_by(keeper, vm)
    login = msgspec.structs.replace(centre.address("host-k1"), user=granted.user, password=granted.password)

    async with Connection(login, name="once") as once:
        heard: list[Message] = []
        await once.consume_direct(lambda delivery: heard.append(recall(delivery.body)))
        trade = encode(EnrolTrade(generation=1))
        await once.publish(*up(granted.user, "enrol"), trade, reply_to="amq.rabbitmq.reply-to")
        await granted_by(other, new_vm("host-k2"))
        await until(lambda: bool(heard))

    assert isinstance(heard[0], Failed)
    assert "the broker refused" in heard[0].message
    unmint(centre.management, parse_principal(vm))
    await keeper.connection.close()
    await other.connection.close()


async def test_vms_that_read_nothing_hold_no_more_places_than_leaves_others_one(
    narrow: None, centre: Centre, mint: Mint
) -> None:
    """Eight VMs with 256 questions each held every place of the key manager for as long as it offered them answers."""
    other = await host(centre, "host-k2")
    async with Talker(centre.address("console-k1")) as console:
        deaf = [mint("vm") for _ in range(8)]
        for vm in deaf:
            await fill(console, queue_of(vm.user))

        await asyncio.gather(*(_ask_much(vm) for vm in deaf))

        for _ in range(3):
            assert isinstance(await asyncio.wait_for(granted_by(other, new_vm("host-k2")), 10), EnrolGranted)
    await other.connection.close()


async def _ask_much(vm: Address) -> None:
    """Ask 100 times for what is refused."""
    async with Talker(vm) as talker:
        for _ in range(100):
            question = EnrolGrant(vm=vm.user, generation=1)
            await talker.connection.publish(*up(vm.user, "enrol"), encode(question), message_id=question.id)
