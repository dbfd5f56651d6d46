"""Whatever a VM puts beside its messages costs it a dead letter, and its reader nothing: no link, no delivery."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from broker.address import Address
from broker.connection import Connection, Delivery
from broker.inbound import Refusal, take_in
from broker.routes import payer_of
from tests.broker.polling import until
from tests.broker.raw_amqp import TAKEN_KINDS, Fuzz, Raw, long, nested, properties, short, table, timestamp

Mint = Callable[..., Address]

LATE = table(("when", timestamp(1 << 50)))
HEADERS = {
    "a time after the year 9999": LATE,
    "deeper than pika's stack": table(("deep", nested(500, kind=b"F"))),
    "tables in tables": table(("deep", nested(2000, kind=b"F"))),
    "long": table(("long", b"A" + long(b"V" * 60_000))),
    "names that are no text": table((b"\xff\xfe", b"S" + long(b"\xff")), ("when", timestamp(1 << 60))),
}


class Reader:
    """Reads a queue as an adapter does, and keeps what came."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.came: list[Delivery] = []

    def take(self, delivery: Delivery) -> None:
        self.came.append(delivery)
        delivery.ack()

    @property
    def flaws(self) -> list[str]:
        return [one.flaw for one in self.came]


@asynccontextmanager
async def reading(address: Address, queue: str) -> AsyncIterator[Reader]:
    async with Connection(address, name="reader") as connection:
        reader = Reader(connection)
        await connection.consume(queue, reader.take)
        yield reader


@pytest.mark.parametrize("queue", ["vc.inventory", "vc.beats"], ids=["classic", "quorum"])
@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
async def test_headers_that_the_library_cannot_read_are_a_flaw_and_the_link_lives(
    mint: Mint, queue: str, headers: bytes
) -> None:
    vm = mint("vm")
    key = f"{vm.user}.{'inventory' if queue == 'vc.inventory' else 'beat'}"
    async with reading(mint("adapter", "job-1"), queue) as reader:
        with Raw(vm) as stranger:
            stranger.publish("vc.up", key, properties(user_id=short(vm.user), headers=headers, message_id=short("m")))
            stranger.publish("vc.up", key, properties(user_id=short(vm.user)), b"good")
            stranger.confirmed()

        await until(lambda: len(reader.came) == 2)

        bad, good = reader.came
        assert (bad.user_id, bad.properties.message_id, good.body, good.flaw) == (vm.user, "m", b"good", "")
        assert bad.flaw
        refusal = take_in(bad)
        assert isinstance(refusal, Refusal)
        assert (refusal.sender, refusal.reason, refusal.detail[:10]) == (vm.user, "undecodable", "properties")
        assert reader.connection.links == 1


async def test_names_and_a_key_that_are_no_text_are_a_flaw_too(mint: Mint) -> None:
    vm = mint("vm")
    carbon_copy = table(("CC", b"A" + long(b"S" + long(b"x.inventory"))))
    async with reading(mint("adapter", "job-1"), "vc.inventory") as reader:
        with Raw(vm) as stranger:
            user = short(vm.user)
            stranger.publish("vc.up", f"{vm.user}.".encode() + b"\xff", properties(user_id=user, headers=carbon_copy))
            stranger.publish("vc.up", f"{vm.user}.inventory", properties(user_id=user, message_id=short(b"\xff" * 255)))
            stranger.publish("vc.up", f"{vm.user}.inventory", properties(user_id=user, timestamp=b"\xff" * 8))
            stranger.confirmed()

        await until(lambda: len(reader.came) == 3)

        assert [bool(flaw) for flaw in reader.flaws] == [True, True, False]
        assert reader.came[0].routing_key == f"{vm.user}.\ufffd"
        assert reader.came[1].properties.message_id is None
        assert reader.connection.links == 1


async def test_what_a_client_says_of_itself_does_not_take_down_who_hears_of_connections(mint: Mint) -> None:
    vm, keys = mint("vm"), mint("keys")
    async with Connection(keys, name="keys") as connection:
        heard = Reader(connection)
        await connection.consume(
            "vc.replies.keys.events1", heard.take, bind_to=("amq.rabbitmq.event", "connection.created")
        )
        hostile = table(("product", b"S" + long(b"\xff\xfe")), ("when", timestamp(1 << 50)), ("deep", nested(300)))

        with Raw(vm, client_properties=hostile), Raw(vm):
            await until(lambda: len(heard.came) >= 2)

        assert connection.links == 1
        assert vm.user in str([one.properties.headers for one in heard.came])


async def test_a_thousand_messages_of_every_type_lose_no_link_and_no_message(mint: Mint) -> None:
    vm, fuzz = mint("vm"), Fuzz(20261128, TAKEN_KINDS)
    async with reading(mint("adapter", "job-1"), "vc.inventory") as reader:
        with Raw(vm) as stranger:
            for _ in range(1000):
                stranger.publish("vc.up", f"{vm.user}.inventory", fuzz.properties(vm.user))
            stranger.confirmed()

        await until(lambda: len(reader.came) == 1000)
        assert reader.connection.links == 1
        assert any(reader.flaws)


async def test_a_message_without_a_name_comes_under_its_writers_key_whatever_copies_it_asks_for(mint: Mint) -> None:
    """By that key it is known who pays for it: nobody can spend what another may send."""
    vm, other = mint("vm"), mint("vm")
    copies = b"A" + long(b"S" + long(f"{other.user}.inventory".encode()))
    async with reading(mint("adapter", "job-1"), "vc.inventory") as reader:
        with Raw(vm) as stranger:
            for header in ("CC", "BCC"):
                stranger.publish("vc.up", f"{vm.user}.nothing", properties(headers=table((header, copies))))
            stranger.confirmed()

        await until(lambda: len(reader.came) == 2)

        payers = [payer_of(one.exchange, one.routing_key, one.user_id) for one in reader.came]
        assert payers == [vm.user] * 2
        assert [one.user_id for one in reader.came] == ["", ""]
