"""A real broker that is stopped in the midst, then killed: a call ends within 10 s, and the loop turns all the time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.address import Address
from broker.connection import Connection
from broker.daemon.process_identity import ProcessIdentity
from broker.entities import administrator, declare
from broker.errors import Disconnected
from broker.management import Management
from broker.minting import mint, new_password
from broker.node import PrivateNode, find_server
from broker.principals import parse_principal
from broker.rpc.caller import Caller
from broker.topology import Profile
from schemas.envelope import Done, Ping
from schemas.ledger import JobList, Jobs
from tests.unit.test_patience import ticks_while

pytestmark = pytest.mark.long

#: Time within which every command ends, seconds.
MOST_S = 10.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[PrivateNode]:
    find_server()
    private = PrivateNode(tmp_path / "node")
    private.start()
    yield private
    _signal(private, signal.SIGCONT)
    private.stop()


@pytest.fixture
def console(node: PrivateNode) -> Address:
    address, password = node.address, new_password()
    with administrator(address.administration) as declarer:
        declare(declarer, Profile.SINGLE)
        mint(Management(address.administration), declarer, parse_principal("console-a"), password)
        mint(Management(address.administration), declarer, parse_principal("host-a"), new_password())
    return address.login("console-a", password)


def _signal(node: PrivateNode, number: signal.Signals) -> None:
    record = ProcessIdentity.read(node.directory / "node.pid")
    if record is not None and record.is_alive():
        os.kill(record.pid, number)


async def _ends(caller: Caller) -> float:
    began = time.monotonic()
    with pytest.raises(Disconnected, match="no broker in"):
        await caller.call_centre("call", JobList(), Jobs)
    return time.monotonic() - began


async def test_a_call_over_a_broker_that_is_stopped_and_then_killed_ends_in_time(
    node: PrivateNode, console: Address
) -> None:
    connection = Connection(console, name="console")
    await connection.open(patience_s=10)
    caller = Caller(connection)
    await caller.open("console-a")

    _signal(node, signal.SIGSTOP)
    assert await _ends(caller) < MOST_S

    pending = asyncio.ensure_future(caller.call("host-a", Ping(), Done))
    await asyncio.sleep(0.5)
    _signal(node, signal.SIGKILL)
    began, cpu = time.monotonic(), time.process_time()
    ticks = await ticks_while(asyncio.wait([pending]))

    assert isinstance(pending.exception(), Disconnected)
    assert time.monotonic() - began < MOST_S
    assert ticks > 100
    assert time.process_time() - cpu < 3.0
    await connection.close()


async def test_nobody_gets_in_where_a_broker_is_stopped_and_leaving_takes_a_moment(
    node: PrivateNode, console: Address
) -> None:
    async with Connection(console, name="console") as connection:
        _signal(node, signal.SIGSTOP)
        began = time.monotonic()
        await connection.close()
        assert time.monotonic() - began < 4

        began = time.monotonic()
        with pytest.raises(Disconnected, match="does not answer"):
            await Connection(console, name="console").open(patience_s=8.0)
        assert time.monotonic() - began < MOST_S
        _signal(node, signal.SIGCONT)
