"""The topology on a real broker: declared twice alike, differences found, rejects and overflow where they belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from broker.address import VHOST, Address
from broker.entities import Declarer, check, declare, declare_queues
from broker.errors import ManagementError
from broker.keys.realm import BrokerRealm
from broker.management import Management
from broker.minting import unmint
from broker.node import NodeAddress
from broker.principals import parse_principal
from broker.topology import Binding, Overflow, Profile, QueueSpec, centre_queues, queues_of

Mint = Callable[..., Address]
CENTRE = centre_queues(Profile.SINGLE)


@pytest.fixture
def channel(address: NodeAddress) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    credentials = pika.PlainCredentials(address.admin_user, address.admin_password)
    parameters = pika.ConnectionParameters(address.host, address.amqp_port, VHOST, credentials)
    with pika.BlockingConnection(parameters) as connection:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened


def depth(channel: pika.adapters.blocking_connection.BlockingChannel, queue: str) -> int:
    count: int = channel.queue_declare(queue, passive=True).method.message_count
    return count


def test_declaring_twice_leaves_nothing_to_say(declarer: Declarer, management: Management) -> None:
    declare(declarer, Profile.SINGLE)
    declare(declarer, Profile.SINGLE)

    assert check(management, CENTRE) == []


def test_the_queues_of_every_principal_are_as_the_table_says(management: Management, mint: Mint) -> None:
    users = [mint("host"), mint("vm"), mint("site"), mint("adapter", "store-1"), mint("adapter", "job-1")]

    specs = [spec for one in users for spec in queues_of(parse_principal(one.user), Profile.SINGLE)]

    assert check(management, [*CENTRE, *specs]) == []


def test_a_missing_queue_and_a_missing_binding_are_found(management: Management, channel, mint: Mint) -> None:  # type: ignore[no-untyped-def]
    vm = parse_principal(mint("vm").user)
    commands, files = queues_of(vm, Profile.SINGLE)
    channel.queue_delete(commands.name)
    channel.queue_unbind(files.name, "vc.down", files.name)

    found = [str(one) for one in check(management, [commands, files])]

    assert f"queue {commands.name}: expected a classic queue, found nothing" in found
    assert f"queue {files.name}: expected binding vc.down {files.name}, found none" in found


def test_a_queue_with_other_arguments_is_found_and_not_declared_over(
    management: Management, declarer: Declarer, channel
) -> None:  # type: ignore[no-untyped-def]
    spec = QueueSpec(name="t.other", type="classic", max_bytes=2048, overflow=Overflow.DROP, bindings=())
    channel.queue_declare("t.other", durable=True, arguments={**spec.arguments, "x-max-length-bytes": 1024})

    found = check(management, [spec])
    with pytest.raises(ManagementError, match=r"t\.other exists with other arguments") as caught:
        declare_queues(declarer, [spec])
    assert caught.value.status == 406, "no broker that is away: trying again does not help"
    channel.queue_delete("t.other")

    assert str(found[0]) == ("queue t.other: expected x-max-length-bytes = 2048, found x-max-length-bytes = 1024")


def test_queues_that_somebodys_end_left_behind_are_found(
    management: Management, declarer: Declarer, address: NodeAddress, mint: Mint
) -> None:
    left, there = parse_principal("vm-left"), parse_principal(mint("host").user)
    declare_queues(declarer, queues_of(left, Profile.SINGLE))

    found = [str(one) for one in check(management, [*CENTRE, *queues_of(there, Profile.SINGLE)])]
    ownerless = BrokerRealm(address.administration, Profile.SINGLE).ownerless()
    unmint(management, left)

    assert found == [f"queue vm.left{end}: expected nothing, found no vm-left" for end in ("", ".files")]
    assert ownerless == [left]


def test_a_stranger_that_hears_what_volunteers_write_is_found(management: Management, channel) -> None:  # type: ignore[no-untyped-def]
    channel.queue_declare("t.stranger", durable=True)
    channel.queue_bind("t.stranger", "vc.up", "*.beat")

    found = [str(one) for one in check(management, CENTRE)]
    channel.queue_delete("t.stranger")

    assert found == ["queue t.stranger: expected no binding, found vc.up *.beat"]


def test_what_is_rejected_goes_to_the_dead_letters(channel) -> None:  # type: ignore[no-untyped-def]
    for spec in CENTRE:
        if not spec.dead_letters:
            continue
        for queue in ("vc.dead", spec.name):
            channel.queue_purge(queue)
        channel.basic_publish("", spec.name, b"unwanted")
        method, _, _ = next(channel.consume(spec.name, inactivity_timeout=5))
        channel.basic_nack(method.delivery_tag, requeue=False)
        channel.cancel()

        method, properties, body = next(channel.consume("vc.dead", inactivity_timeout=5))
        channel.basic_ack(method.delivery_tag)
        channel.cancel()

        assert body == b"unwanted"
        assert properties.headers["x-first-death-queue"] == spec.name


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_full_queue_refuses_or_forgets(declarer: Declarer, channel, kind: str) -> None:  # type: ignore[no-untyped-def]
    shape: dict[str, Any] = {"type": kind, "max_bytes": 4096, "bindings": (Binding("vc.down", f"t.{kind}"),)}
    for overflow in Overflow:
        name = f"t.{kind}.{overflow.value}"
        declare_queues(declarer, [QueueSpec(name=name, overflow=overflow, **shape)])

        refused = 0
        for _ in range(20):
            try:
                channel.basic_publish("", name, bytes(1024))
            except pika.exceptions.NackError:
                refused += 1
        kept = depth(channel, name)
        channel.queue_delete(name)

        assert (refused > 0) == (overflow is Overflow.REJECT)
        assert kept <= 6
