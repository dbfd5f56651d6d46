"""Several endpoints: a dead one is passed over, and what is under way when a broker dies ends right on another one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from broker.address import Address, AdminAddress
from broker.connection import Connection
from broker.entities import administrator, declare
from broker.errors import BrokerError, Disconnected, LoginRefused
from broker.management import Management
from broker.minting import mint
from broker.node import LOOPBACK, NodeAddress, PrivateNode
from broker.ports import free_ports
from broker.principals import parse_principal
from broker.topology import Profile
from broker.transfer import into_file
from broker.transfer.sending import digest_file
from schemas.endpoints import Endpoint
from schemas.envelope import Done
from schemas.files import FileOffer
from schemas.vms import VmResume
from tests.broker.conftest import Mint, require_rabbitmq
from tests.broker.test_rpc import Host, caller_of
from tests.broker.test_transfer import MIB, a_file, console_end, vm_end

PASSWORD = "the same on both"
NAMES = ("host-a", "vm-a", "console-a")


def beside(address: Address, *others: Endpoint) -> Address:
    made: Address = replace(address, endpoints=(*others, *address.endpoints))
    return made


@pytest.fixture
def dead() -> Endpoint:
    """Where nothing listens."""
    return Endpoint(LOOPBACK, free_ports(LOOPBACK, (0,))[0])


async def test_a_dead_endpoint_is_passed_over_whichever_is_tried_first(mint: Mint, dead: Endpoint) -> None:
    address = beside(mint("vm"), dead, Endpoint("no-such-host.invalid", 5672))

    for _ in range(8):
        began = time.monotonic()
        async with Connection(address, name="vm"):
            assert time.monotonic() - began < 3


def test_the_administrator_passes_it_over_too(address: NodeAddress, dead: Endpoint) -> None:
    there = address.administration
    several = replace(there, endpoints=(dead, *there.endpoints), management=(dead, *there.management))

    with administrator(several) as declarer:
        assert declarer.connected
    assert "administrator" in Management(several).users.names()


async def test_all_dead_are_named(dead: Endpoint) -> None:
    other = Endpoint(LOOPBACK, free_ports(LOOPBACK, (0,))[0])
    administration = AdminAddress(endpoints=(dead, other), management=(dead, other), user="a", password="x")

    with pytest.raises(Disconnected) as of_a_link:
        await Connection(administration.login("vm-a", "x"), name="vm").open(patience_s=1)
    with pytest.raises(BrokerError) as of_kombu:
        administrator(administration, patience_s=2)
    with pytest.raises(BrokerError) as of_management:
        Management(administration).users.names()

    for caught in (of_a_link, of_kombu, of_management):
        assert f"{dead}" in str(caught.value)
        assert f"{other}" in str(caught.value)


async def test_a_refused_login_says_more_than_a_dead_endpoint(mint: Mint, dead: Endpoint) -> None:
    wrong = replace(beside(mint("vm"), dead), password="wrong")

    with pytest.raises(LoginRefused, match="the broker refused the login"):
        await Connection(wrong, name="vm").open(patience_s=10)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[PrivateNode, PrivateNode]]:
    """Two brokers with the same principals; the second does not run yet."""
    require_rabbitmq()
    both = PrivateNode(tmp_path / "one"), PrivateNode(tmp_path / "other")
    try:
        for node in reversed(both):
            there = node.start().administration
            with administrator(there) as declarer:
                declare(declarer, Profile.SINGLE)
                for name in NAMES:
                    mint(Management(there), declarer, parse_principal(name), PASSWORD)
            if node is both[1]:
                node.stop()
        yield both
    finally:
        for node in both:
            node.stop()


def of_both(nodes: tuple[PrivateNode, PrivateNode], user: str) -> Address:
    first, second = (node.address.login(user, PASSWORD) for node in nodes)
    return beside(second, *first.endpoints)


async def fail_over(nodes: tuple[PrivateNode, PrivateNode]) -> None:
    """Start the other broker, and kill the one that all are connected to."""
    await asyncio.to_thread(nodes[1].start)
    pid = nodes[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_a_call_that_is_under_way_when_its_broker_dies_is_answered_by_another(
    nodes: tuple[PrivateNode, PrivateNode], tmp_path: Path
) -> None:
    host = Host(of_both(nodes, "host-a"), tmp_path)
    async with host.up(), caller_of(of_both(nodes, "console-a")) as caller:
        command = VmResume(vm="vm-1")
        calling = asyncio.ensure_future(caller.call("host-a", command, Done, timeout_s=60))
        await host.begun.wait()

        await fail_over(nodes)
        host.go.set()
        answer = await calling

    assert (answer.call, host.runs) == (command.id, [command.id])


async def test_a_file_that_is_under_way_when_its_broker_dies_arrives_by_another(
    nodes: tuple[PrivateNode, PrivateNode], tmp_path: Path
) -> None:
    offer = a_file(tmp_path / "source", 64 * MIB)
    async with vm_end(of_both(nodes, "vm-a")) as guest, console_end(of_both(nodes, "console-a")) as person:
        sending = asyncio.ensure_future(person.transfers.send_file(tmp_path / "source", offer, "vm-a"))
        sender, came = await guest.openings.get()
        assert isinstance(came, FileOffer)
        moved = asyncio.Event()
        receiving = asyncio.ensure_future(
            guest.transfers.receive_file(
                came,
                into_file(tmp_path / "target", tmp_path / "part"),
                sender,
                came.reply,
                progress=lambda _: moved.set(),
            )
        )
        await moved.wait()

        await fail_over(nodes)
        await receiving
        await sending

    assert digest_file(tmp_path / "target")[1] == offer.sha256
