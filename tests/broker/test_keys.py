"""The key manager on a real broker: a VM's way to its credential, what a revert ends, who is answered where."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pika
import pytest

from broker.address import Address, read_address
from broker.connection import Connection, Delivery
from broker.entities import check
from broker.errors import LoginRefused
from broker.keys.config import KeysConfig
from broker.keys.service import run
from broker.management import Management
from broker.minting import unmint
from broker.node import ADMINISTRATION, NodeAddress, PrivateNode
from broker.principals import parse_principal
from broker.routes import down, queue_of, reply_queue, up, within
from schemas.codec import decode, encode
from schemas.enrol import (
    Credential,
    EnrolConfirm,
    EnrolGrant,
    EnrolGranted,
    EnrolRevoke,
    EnrolTrade,
    KeysMint,
    PrincipalCut,
)
from schemas.envelope import Done, Failed, Message
from schemas.ids import new_vm
from tests.broker.polling import until

PRINCIPALS = ["host-k1", "host-k2", "console-k1", "adapter-store-k"]
DIRECT = "amq.rabbitmq.reply-to"

Mint = Callable[..., Address]


class Centre(msgspec.Struct):
    """A key manager that runs, and what tests ask of it."""

    directory: Path
    management: Management

    def address(self, principal: str) -> Address:
        return read_address(self.directory / "credentials" / f"{principal}.json")


class Talker:
    """One end of a connection that keeps what it hears."""

    def __init__(self, address: Address, name: str = "") -> None:
        self.connection = Connection(address, name=name or address.user)
        self.user = address.user
        self.heard: list[tuple[Delivery, Message]] = []

    async def __aenter__(self) -> Talker:
        await self.connection.open(patience_s=10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    def hear(self, delivery: Delivery) -> None:
        self.heard.append((delivery, decode(delivery.body)))
        if delivery.properties.correlation_id is None or delivery.exchange:
            delivery.ack()

    async def ask(self, message: Message, *, kind: str = "enrol", reply_to: str | None = None) -> Message:
        await self.connection.publish(*up(self.user, kind), encode(message), message_id=message.id, reply_to=reply_to)
        await until(lambda: any(getattr(one, "call", "") == message.id for _, one in self.heard))
        return next(one for _, one in reversed(self.heard) if getattr(one, "call", "") == message.id)


async def host(centre: Centre, name: str = "host-k1") -> Talker:
    talker = Talker(centre.address(name))
    await talker.connection.open(patience_s=10)
    await talker.connection.consume(queue_of(name), talker.hear)  # type: ignore[arg-type]
    return talker


async def granted_by(talker: Talker, vm: str, generation: int = 1) -> EnrolGranted:
    answer = await talker.ask(EnrolGrant(vm=vm, generation=generation))
    assert isinstance(answer, EnrolGranted), answer
    return answer


async def trade(centre: Centre, granted: EnrolGranted) -> Address:
    broker = centre.address("host-k1")
    login = msgspec.structs.replace(broker, user=granted.user, password=granted.password)
    async with Talker(login) as once:
        await once.connection.consume_direct(lambda d: once.heard.append((d, decode(d.body))))
        answer = await once.ask(EnrolTrade(generation=granted.generation), reply_to=DIRECT)
    assert isinstance(answer, Credential), answer
    return msgspec.structs.replace(broker, user=answer.user, password=answer.password)


@pytest.fixture
async def centre(address: NodeAddress, node: PrivateNode, tmp_path: Path) -> AsyncIterator[Centre]:
    config = KeysConfig(
        administrator=str(node.directory / ADMINISTRATION), directory=str(tmp_path), principals=PRINCIPALS, sweep_s=60
    )
    task = asyncio.create_task(run(config))
    management = Management(address.administration)
    credentials = tmp_path / "credentials"
    await until(lambda: task.done() or (credentials / f"{PRINCIPALS[-1]}.json").exists())
    yield Centre(tmp_path, management)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for name in management.users.names():
        if name != address.admin_user:
            unmint(management, parse_principal(name))


async def test_a_vm_gets_from_its_seed_to_its_own_queue(centre: Centre) -> None:
    vm = new_vm("host-k1")
    keeper = await host(centre)
    granted = await granted_by(keeper, vm)

    address = await trade(centre, granted)
    async with Talker(address, "guest") as guest:
        await guest.connection.consume(queue_of(vm), guest.hear)  # type: ignore[arg-type]
        await guest.connection.publish(*up(vm, "enrol"), encode(EnrolConfirm(generation=1)))

        await until(lambda: not centre.management.users.exists(granted.user))
        assert address.user == vm
    await keeper.connection.close()


async def test_a_repeated_question_gets_the_same_answer_over_the_broker(centre: Centre) -> None:
    keeper = await host(centre)
    vm = new_vm("host-k1")

    first, second = await granted_by(keeper, vm), await granted_by(keeper, vm)
    once, twice = await trade(centre, first), await trade(centre, second)

    assert (first.user, first.password) == (second.user, second.password)
    assert once == twice
    await keeper.connection.close()


async def test_a_newer_generation_drops_the_older_ones_connection_at_once(centre: Centre) -> None:
    vm = new_vm("host-k1")
    keeper = await host(centre)
    old = await trade(centre, await granted_by(keeper, vm))
    async with Talker(old) as guest:
        granted = await granted_by(keeper, vm, generation=2)
        assert guest.connection.is_up, "a boot that never comes locks nobody out"

        await trade(centre, granted)

        await until(lambda: not guest.connection.is_up)
    with pytest.raises(LoginRefused):
        await Connection(old, name="old").open(patience_s=5)
    await keeper.connection.close()


async def test_a_deleted_vm_is_gone_from_the_broker(centre: Centre) -> None:
    vm = new_vm("host-k1")
    keeper = await host(centre)
    await trade(centre, await granted_by(keeper, vm))

    answer = await keeper.ask(EnrolRevoke(vm=vm))

    assert isinstance(answer, Done)
    assert not centre.management.users.exists(vm)
    assert not [one for one in centre.management.topology.queues() if one.name.startswith(queue_of(vm))]
    await keeper.connection.close()


async def test_an_agent_that_comes_back_is_not_deaf(centre: Centre) -> None:
    """Its dead connection would be the single active consumer for three heartbeats more. Closing it takes up to 5 s
    where it is itself that young, else milliseconds."""
    vm = new_vm("host-k1")
    keeper = await host(centre)
    address = await trade(centre, await granted_by(keeper, vm))
    dead = pika.BlockingConnection(
        pika.ConnectionParameters(
            address.endpoints[0].host,
            address.endpoints[0].port,
            address.vhost,
            pika.PlainCredentials(address.user, address.password),
            client_properties={"connection_name": "guest"},
        )
    )
    dead.channel().basic_consume(queue_of(vm), lambda *_: None)

    async with Talker(address, "guest") as alive, Talker(centre.address("console-k1")) as console:
        await alive.connection.consume(queue_of(vm), alive.hear)  # type: ignore[arg-type]
        await console.connection.publish(*down(vm), encode(EnrolConfirm()))

        await until(lambda: bool(alive.heard))
    await keeper.connection.close()


async def test_a_console_mints_a_site_that_can_log_in(centre: Centre) -> None:
    async with Talker(centre.address("console-k1")) as console:
        queue = reply_queue("console-k1", "r1")
        bind_to = ("vc.up", "*.reply.console-k1-r1")
        await console.connection.consume(queue, console.hear, bind_to=bind_to)  # type: ignore[arg-type]

        answer = await console.ask(KeysMint(site="cern", reply="r1"), kind="keys")

    assert isinstance(answer, Credential)
    broker = centre.address("console-k1")
    async with Talker(msgspec.structs.replace(broker, user=answer.user, password=answer.password)) as site:
        await site.connection.consume("site.cern", site.hear)  # type: ignore[arg-type]


async def test_a_one_time_login_cannot_have_its_answer_written_to_another_queue(centre: Centre) -> None:
    """The key manager alone may write the default exchange, which leads to every queue."""
    keeper = await host(centre)
    granted = await granted_by(keeper, new_vm("host-k1"))
    login = msgspec.structs.replace(centre.address("host-k1"), user=granted.user, password=granted.password)
    heard = len(keeper.heard)

    async with Talker(login) as once:
        body = encode(EnrolTrade(generation=1))
        await once.connection.publish(*up(granted.user, "enrol"), body, reply_to=queue_of("host-k1"))
        await granted_by(keeper, new_vm("host-k1"))

    assert len(keeper.heard) == heard + 1
    await keeper.connection.close()


async def test_another_hosts_vm_is_refused_with_its_reason(centre: Centre) -> None:
    vm = new_vm("host-k1")
    keeper, other = await host(centre), await host(centre, "host-k2")
    await granted_by(keeper, vm)

    answer = await other.ask(EnrolGrant(vm=vm, generation=2))

    assert isinstance(answer, Failed)
    assert "is not a VM of host-k2" in answer.message
    await keeper.connection.close()
    await other.connection.close()


async def test_what_cannot_be_read_goes_to_the_dead_letters_with_its_reason(centre: Centre, declarer) -> None:  # type: ignore[no-untyped-def]
    keeper = await host(centre)
    with declarer.channel() as channel:
        channel.queue_purge("vc.dead")
    await keeper.connection.publish(*up("host-k1", "enrol"), b"\xc1nonsense", message_id="bad")
    await granted_by(keeper, new_vm("host-k1"))

    with declarer.channel() as channel:
        dead = channel.basic_get("vc.dead", no_ack=True)

    assert dead.body in (b"\xc1nonsense", memoryview(b"\xc1nonsense"))
    assert dead.properties["application_headers"]["x-volcloud-sender"] == "host-k1"
    assert dead.properties["application_headers"]["x-volcloud-reason"].startswith("undecodable: ")
    await keeper.connection.close()


async def test_old_one_time_logins_are_swept(address: NodeAddress, node: PrivateNode, tmp_path: Path) -> None:
    config = KeysConfig(
        administrator=str(node.directory / ADMINISTRATION),
        directory=str(tmp_path),
        principals=["host-k3"],
        once_lifetime_s=0.2,
        sweep_s=0.1,
    )
    task = asyncio.create_task(run(config))
    await until(lambda: (tmp_path / "credentials" / "host-k3.json").exists())
    centre = Centre(tmp_path, Management(address.administration))
    keeper = await host(centre, "host-k3")

    granted = await granted_by(keeper, new_vm("host-k3"))

    await until(lambda: not centre.management.users.exists(granted.user))
    assert centre.management.users.exists("host-k3")
    await keeper.connection.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for name in ("keys", "host-k3"):
        unmint(centre.management, parse_principal(name))


def start_process(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "broker.keys.main", "--config", str(config)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def said_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if word in line:
            break
    return said


def test_the_process_keeps_passwords_over_a_restart_and_stops_when_told(
    management: Management, node: PrivateNode, tmp_path: Path
) -> None:
    config = tmp_path / "keys.toml"
    config.write_text(
        f'administrator = "{node.directory}/{ADMINISTRATION}"\ndirectory = "{tmp_path}"\nprincipals = ["host-k4"]\n'
    )
    credentials = []
    for _ in range(2):
        with start_process(config) as process:
            assert "serving" in said_until(process, "serving")
            credentials.append(read_address(tmp_path / "credentials" / "host-k4.json"))
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=20)[1]

        assert process.returncode == 0, said
        assert credentials[0].password not in said
    for name in ("keys", "host-k4"):
        unmint(management, parse_principal(name))

    assert credentials[0] == credentials[1]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ('principals = ["guest-1"]', "guest-1"),
        ('profile = "big"', "profile = 'big'"),
        ("sweep_s = 0", "sweep_s = 0"),
        ('principal = ["keys"]', "did you mean 'principals'"),
        ("", "nowhere.json"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, setting: str, complaint: str) -> None:
    config = tmp_path / "keys.toml"
    config.write_text(f'administrator = "nowhere.json"\ndirectory = "{tmp_path}"\n{setting}\n')

    with start_process(config) as process:
        said = process.communicate(timeout=20)[1]

    assert process.returncode == 2
    assert complaint in said


async def test_who_is_cut_off_loses_its_connection_and_comes_back_when_its_time_is_over(
    centre: Centre, mint: Mint, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = mint("vm")
    flooding = Connection(vm, name="flood")
    await flooding.open(patience_s=10)
    async with Talker(centre.address("adapter-store-k")) as adapter:
        order = PrincipalCut(target="keys", principal=vm.user, reason="a flood")
        await adapter.connection.publish(*within(adapter.user, "cut"), encode(order), message_id=order.id)

        await until(lambda: not flooding.is_up and "limit" in str(flooding.last_error), 30)
    assert str(check(centre.management, [])).count(vm.user) >= 1

    centre.management.users.put_limit(vm.user, "max-connections", 4)
    await until(lambda: flooding.is_up, 30)
    await flooding.close()


async def test_a_vm_cannot_have_another_cut_off(centre: Centre, mint: Mint) -> None:
    victim, evil = mint("vm"), mint("vm")
    async with Talker(victim) as one, Talker(evil) as other:
        await other.connection.consume(queue_of(evil.user), other.hear)  # type: ignore[arg-type]
        answer = await other.ask(PrincipalCut(target="keys", principal=victim.user, reason="spite"))

        assert isinstance(answer, Failed)
        assert "is not taken from" in answer.message
        assert one.connection.is_up
    assert victim.user not in centre.management.users.shut_out()
