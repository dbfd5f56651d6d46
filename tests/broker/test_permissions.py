"""What a stolen credential is worth: each principal that leaves the centre tries, on the real broker, what it must not.

A probe is refused with its AMQP code, or harmless: no queue but the sender's own changes its depth, and what arrives at
the centre carries the sender's own name.
"""

from __future__ import annotations

import http.client
import time
from base64 import b64encode
from collections.abc import Callable, Iterator

import msgspec
import pika
import pytest
from pika import exceptions as amqp
from pika.adapters.blocking_connection import BlockingChannel

from broker.address import VHOST, Address
from broker.entities import Declarer
from broker.keys.realm import BrokerRealm
from broker.management import Management
from broker.minting import mint, new_password, unmint
from broker.node import NodeAddress
from broker.principals import limits, parse_principal
from broker.routes import queue_of, reply_queue, sender_of
from broker.topology import Profile
from schemas.ids import Kind, kind_of, unguessable
from tests.broker.conftest import empty_centre

THIEVES = ("vm", "host", "site", "once")
REPLY_QUEUE = "vc.replies.console-victim.abc"


class World(msgspec.Struct):
    """Who is there: the thieves by kind, those whom they try to harm, and the channels that look at the queues."""

    address: NodeAddress
    thieves: dict[str, Address]
    victims: dict[str, Address]
    admin: BlockingChannel
    #: The victim console's: its reply queue is exclusive, so only it can look at it.
    console: BlockingChannel

    def depths(self) -> dict[str, int]:
        """Messages in every queue that is not a thief's."""
        own = {f"{queue_of(one.user)}{end}" for one in self.thieves.values() for end in ("", ".files")}
        names = [one.name for one in Management(self.address.administration).topology.queues() if one.name not in own]
        return {name: self._depth(name) for name in names}

    def take(self, queue: str) -> str | None:
        """Empty a queue and name the sender of its oldest message as a receiver of ours would."""
        channel = self.console if queue == REPLY_QUEUE else self.admin
        method, properties, _ = channel.basic_get(queue, auto_ack=True)
        channel.queue_purge(queue)
        return sender_of(method.routing_key, properties.user_id)

    def _depth(self, queue: str) -> int:
        channel = self.console if queue == REPLY_QUEUE else self.admin
        count: int = channel.queue_declare(queue, passive=True).method.message_count
        return count


def connect_at_once(address: Address, *, vhost: str = VHOST) -> pika.BlockingConnection:
    credentials = pika.PlainCredentials(address.user, address.password)
    (endpoint,) = address.endpoints
    return pika.BlockingConnection(pika.ConnectionParameters(endpoint.host, endpoint.port, vhost, credentials))


def connect(address: Address, patience_s: float = 30.0) -> pika.BlockingConnection:
    """Connect once there is room: the broker takes one that was closed off its count some time after it is gone."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return connect_at_once(address)
        except amqp.ProbableAccessDeniedError as refusal:
            if "connection limit" not in str(refusal) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="module")
def world(address: NodeAddress, management: Management, declarer: Declarer) -> Iterator[World]:
    def principal(user: str) -> Address:
        password = new_password()
        mint(management, declarer, parse_principal(user), password)
        return address.login(user, password)

    empty_centre(declarer)
    thieves = {kind: principal(unguessable(kind)) for kind in THIEVES}
    victims = {kind: principal(unguessable(kind)) for kind in ("vm", "host", "site", "once")}
    victims["console"] = principal("console-victim")
    admin = address.login(address.admin_user, address.admin_password)
    console, looking = connect(victims["console"]), connect(admin)
    replies = console.channel()
    replies.queue_declare(REPLY_QUEUE, exclusive=True)
    replies.queue_bind(REPLY_QUEUE, "vc.up", "*.reply.console-victim-abc")
    try:
        yield World(address, thieves, victims, looking.channel(), replies)
    finally:
        looking.close()
        console.close()
        for one in (*thieves.values(), *victims.values()):
            unmint(management, parse_principal(one.user))


Probe = Callable[[BlockingChannel, Address, World], object]


def publish(channel: BlockingChannel, exchange: str, key: str, body: bytes = b"x", **properties: object) -> None:
    channel.confirm_delivery()
    try:
        channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties), mandatory=True)
    except amqp.UnroutableError:
        pass  # let through, and bound to nothing: as harmless as it gets


#: What a principal may write that is no agent, and where that lands.
WRITES: dict[Kind | None, str] = {Kind.SITE: "submit", Kind.ONCE: "enrol"}
LANDS_IN: dict[Kind | None, str] = {Kind.SITE: "vc.submissions", Kind.ONCE: "vc.enrol"}


def own_key(who: Address) -> str:
    return f"{who.user}.{WRITES.get(kind_of(who.user), 'beat')}"


def victim_queue(world: World) -> str:
    return queue_of(world.victims["vm"].user)


def victim_key(world: World) -> str:
    return f"{world.victims['vm'].user}.beat"


def consume(channel: BlockingChannel, queue: str) -> None:
    channel.basic_consume(queue, lambda *_: None)


#: What nobody of them may do, and how the broker says so.
REFUSED: dict[str, tuple[int, Probe]] = {
    "declare a queue": (403, lambda c, me, w: c.queue_declare("mine", durable=True)),
    "declare a server-named queue": (403, lambda c, me, w: c.queue_declare("", exclusive=True)),
    "declare a console's reply queue": (403, lambda c, me, w: c.queue_declare("vc.replies.console-x.abc")),
    "declare an exchange": (403, lambda c, me, w: c.exchange_declare("mine", durable=True)),
    "delete an exchange": (403, lambda c, me, w: c.exchange_delete("vc.up")),
    "delete another's queue": (403, lambda c, me, w: c.queue_delete(victim_queue(w))),
    "delete a queue of the centre": (403, lambda c, me, w: c.queue_delete("vc.requests")),
    "purge another's queue": (403, lambda c, me, w: c.queue_purge(victim_queue(w))),
    "purge a queue of the centre": (403, lambda c, me, w: c.queue_purge("vc.requests")),
    "consume another's queue": (403, lambda c, me, w: consume(c, victim_queue(w))),
    "consume another's files": (403, lambda c, me, w: consume(c, f"{victim_queue(w)}.files")),
    "consume a queue of the centre": (403, lambda c, me, w: consume(c, "vc.enrol")),
    "consume the dead letters": (403, lambda c, me, w: consume(c, "vc.dead")),
    "consume a console's answers": (403, lambda c, me, w: consume(c, REPLY_QUEUE)),
    "get from another's queue": (403, lambda c, me, w: c.basic_get(victim_queue(w))),
    "look at a queue that is not there": (404, lambda c, me, w: c.queue_declare("vm.nobody", passive=True)),
    "bind one's own queue to another's commands": (
        403,
        lambda c, me, w: c.queue_bind(queue_of(me.user), "vc.down", victim_queue(w)),
    ),
    "bind another's queue": (403, lambda c, me, w: c.queue_bind(victim_queue(w), "vc.up", "#")),
    "unbind another's queue": (403, lambda c, me, w: c.queue_unbind(victim_queue(w), "vc.down", victim_queue(w))),
    "bind an exchange to another": (403, lambda c, me, w: c.exchange_bind("vc.up", "vc.down", "#")),
    "listen to the broker's events": (
        403,
        lambda c, me, w: c.queue_bind(queue_of(me.user), "amq.rabbitmq.event", "#"),
    ),
    "write the default exchange": (403, lambda c, me, w: publish(c, "", victim_queue(w))),
    "write one's own queue": (403, lambda c, me, w: publish(c, "", queue_of(me.user))),
    "write a queue of the centre": (403, lambda c, me, w: publish(c, "", "vc.calls")),
    "answer by direct reply-to": (403, lambda c, me, w: publish(c, "", "amq.rabbitmq.reply-to.g1h2.x")),
    "forge an answer to a console by its queue": (403, lambda c, me, w: publish(c, "", REPLY_QUEUE)),
    "forge an answer in another's name": (
        403,
        lambda c, me, w: publish(c, "vc.up", f"{w.victims['vm'].user}.reply.console-victim-abc"),
    ),
    "command another": (403, lambda c, me, w: publish(c, "vc.down", victim_queue(w))),
    "call the centre as a console": (403, lambda c, me, w: publish(c, "vc.calls", "console-victim.call")),
    "call the centre as oneself": (403, lambda c, me, w: publish(c, "vc.calls", f"{me.user}.call")),
    "fill the dead letters": (403, lambda c, me, w: publish(c, "vc.dead", "")),
    "write amq.topic": (403, lambda c, me, w: publish(c, "amq.topic", own_key(me))),
    "write amq.fanout": (403, lambda c, me, w: publish(c, "amq.fanout", own_key(me))),
    "forge an event of the broker": (403, lambda c, me, w: publish(c, "amq.rabbitmq.event", "connection.created")),
    "speak to a VM that bears one's own name": (
        403,
        lambda c, me, w: publish(c, "vc.down", f"vm.{me.user.partition('-')[2]}-0123456789"),
    ),
    "speak to another by a copy": (
        403,
        lambda c, me, w: publish(
            c, "vc.down", f"vm.{me.user.partition('-')[2]}-0123456789", headers={"CC": [victim_queue(w)]}
        ),
    ),
    "declare a reply queue of one's own": (
        403,
        lambda c, me, w: c.queue_declare(reply_queue(me.user, "abc"), exclusive=True),
    ),
    "speak to another about files": (403, lambda c, me, w: publish(c, "vc.down", f"{victim_queue(w)}.files")),
    "use another's key": (403, lambda c, me, w: publish(c, "vc.up", victim_key(w))),
    "ask after another's jobs": (403, lambda c, me, w: publish(c, "vc.up", f"{w.victims['site'].user}.ask")),
    "read another's outputs": (403, lambda c, me, w: publish(c, "vc.up", f"{w.victims['site'].user}.read")),
    "use a key without a name": (403, lambda c, me, w: publish(c, "vc.up", "beat")),
    "use a key that starts like one's own": (403, lambda c, me, w: publish(c, "vc.up", f"{me.user}x.beat")),
    "use one's own key inside another": (403, lambda c, me, w: publish(c, "vc.up", f"x.{own_key(me)}")),
    "carry another's user id": (
        406,
        lambda c, me, w: publish(c, "vc.up", own_key(me), user_id=w.victims["vm"].user),
    ),
    "send more than a message may hold": (406, lambda c, me, w: publish(c, "vc.up", own_key(me), bytes((1 << 20) + 1))),
}

#: What the broker lets some of them do, and to whom not.
PARTLY: dict[str, tuple[set[str], Probe]] = {
    "purge one's own queue": ({"vm", "host", "site"}, lambda c, me, w: c.queue_purge(queue_of(me.user))),
    "send a console an answer that it waits for from someone else": (
        {"vm", "host"},
        lambda c, me, w: publish(c, "vc.up", f"{me.user}.reply.console-nobody-abc"),
    ),
    "use a kind that is not one's own": ({"vm", "host"}, lambda c, me, w: publish(c, "vc.up", f"{me.user}.nothing")),
}


@pytest.fixture(params=THIEVES)
def thief(request: pytest.FixtureRequest, world: World) -> Address:
    return world.thieves[request.param]


@pytest.mark.parametrize("what", REFUSED)
def test_refused(world: World, thief: Address, what: str) -> None:
    code, probe = REFUSED[what]
    before = world.depths()

    with connect(thief) as connection:
        with pytest.raises((amqp.ChannelClosedByBroker, amqp.ConnectionClosedByBroker)) as refusal:
            probe(connection.channel(), thief, world)

    assert refusal.value.reply_code == code
    assert world.depths() == before


@pytest.mark.parametrize("what", PARTLY)
def test_harmless_or_refused(world: World, thief: Address, what: str) -> None:
    allowed, probe = PARTLY[what]
    before = world.depths()

    with connect(thief) as connection:
        if kind_of(thief.user) in allowed:
            probe(connection.channel(), thief, world)
        else:
            with pytest.raises(amqp.ChannelClosedByBroker) as refusal:
                probe(connection.channel(), thief, world)
            assert refusal.value.reply_code == 403

    assert world.depths() == before


def test_looking_at_another_queue_by_its_name_changes_nothing(world: World, thief: Address) -> None:
    """3.10 answers a passive declare to anybody: names are unguessable for that."""
    before = world.depths()

    with connect(thief) as connection:
        connection.channel().queue_declare(victim_queue(world), passive=True)

    assert world.depths() == before


def changed_since(world: World, before: dict[str, int]) -> set[str]:
    """Name the queues that hold more or less, once the reply queue does: the broker routes and counts in its time."""
    deadline, changed = time.monotonic() + 15, set[str]()
    while REPLY_QUEUE not in changed and time.monotonic() < deadline:
        changed = {name for name, count in world.depths().items() if count != before.get(name)}
    return changed


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_a_copy_reaches_no_agent_and_carries_its_senders_name(world: World, thief: Address, header: str) -> None:
    """3.10 does not authorise the keys in CC and BCC; only queues of the centre are bound where thieves write."""
    victims = [one.user for one in world.victims.values()]
    kinds = ("beat", "submit", "ask", "read", "enrol", "reply.console-victim-abc")
    keys = [f"{name}.{kind}" for name in victims for kind in kinds]
    keys += [victim_queue(world), f"{victim_queue(world)}.files", REPLY_QUEUE, "vc.calls", "console-victim.call", "#"]
    before = world.depths()

    with connect(thief) as connection:
        publish(connection.channel(), "vc.up", own_key(thief), headers={header: keys}, user_id=thief.user)

    changed = changed_since(world, before)
    assert REPLY_QUEUE in changed
    assert changed <= {REPLY_QUEUE, "vc.beats", "vc.submissions", "vc.asks", "vc.reads", "vc.enrol"}
    assert {world.take(queue) for queue in changed} == {thief.user}


def test_more_channels_than_a_principal_needs_are_not_to_be_had(world: World, thief: Address) -> None:
    opened: list[int] = []

    def open_many(connection: pika.BlockingConnection) -> None:
        for number in range(1, 400):
            connection.channel(number)
            opened.append(number)

    with connect(thief) as connection:
        with pytest.raises(amqp.ConnectionClosedByBroker) as refusal:
            open_many(connection)

    assert refusal.value.reply_code == 530
    assert len(opened) <= limits(parse_principal(thief.user)).max_channels


def test_one_connection_more_than_its_kind_needs_is_refused(world: World, thief: Address) -> None:
    held: list[pika.BlockingConnection] = []
    try:
        for _ in range(limits(parse_principal(thief.user)).max_connections):
            held.append(connect(thief))
        with pytest.raises(amqp.ProbableAccessDeniedError, match=r"\(530\).*connection limit"):
            connect_at_once(thief)
    finally:
        for one in held:
            one.close()


def test_another_virtual_host_is_refused(thief: Address) -> None:
    with pytest.raises(amqp.ProbableAccessDeniedError, match=r"\(530\)"):
        connect_at_once(thief, vhost="/")


def test_the_management_api_lets_nobody_in(world: World, thief: Address) -> None:
    login = b64encode(f"{thief.user}:{thief.password}".encode()).decode()
    link = http.client.HTTPConnection(world.address.host, world.address.management_port, timeout=10)
    link.request("GET", "/api/whoami", headers={"Authorization": f"Basic {login}"})

    status = link.getresponse().status
    link.close()

    assert status == 401


def test_what_each_is_for_works(world: World, thief: Address) -> None:
    with connect(thief) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("vc.up", own_key(thief), b"x", pika.BasicProperties(user_id=thief.user), mandatory=True)
        if kind_of(thief.user) is not Kind.ONCE:
            consume(channel, queue_of(thief.user))

    assert world.take(LANDS_IN.get(kind_of(thief.user), "vc.beats")) == thief.user


@pytest.mark.parametrize("kind", ["submit", "ask", "read"])
def test_what_a_site_may_say_arrives_under_its_name(world: World, kind: str) -> None:
    site = world.thieves["site"]
    with connect(site) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        key = f"{site.user}.{kind}"
        channel.basic_publish("vc.up", key, b"x", pika.BasicProperties(user_id=site.user), mandatory=True)

    assert world.take({"submit": "vc.submissions", "ask": "vc.asks", "read": "vc.reads"}[kind]) == site.user


def test_a_site_of_an_earlier_release_is_given_the_rights_of_this_one_and_nobody_else_is(
    address: NodeAddress, management: Management, declarer: Declarer
) -> None:
    old, stranger = unguessable("site"), unguessable("site")
    mint(management, declarer, parse_principal(old), "old")
    management.permissions.put_topic(old, "vc.up", rf"^{old}\.submit$", "^$")
    management.users.put(stranger, "stranger")  # a user of another application: it has no queue here
    try:
        BrokerRealm(address.administration, Profile.SINGLE).prepare()

        with connect(address.login(old, "old")) as connection:
            channel = connection.channel()
            for kind in ("submit", "ask", "read"):
                publish(channel, "vc.up", f"{old}.{kind}", user_id=old)
        with pytest.raises(amqp.ProbableAccessDeniedError):
            connect(address.login(stranger, "stranger"))
    finally:
        unmint(management, parse_principal(old))
        management.users.delete(stranger)
        empty_centre(declarer)
