"""A password goes to the node's own user: not to whoever holds its port meanwhile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from broker.address import Address
from broker.connection import Connection
from broker.entities import administrator
from broker.errors import BrokerError, Disconnected, ManagementError, Stranger
from broker.management import Management
from broker.node import LOOPBACK, NodeAddress
from broker.peer import ANYBODY, owner_of_other_end, require_owner
from schemas.endpoints import Endpoint

#: A user of this machine that is not the broker's.
OTHER = 65534
#: Listens as another user, greets like a broker of AMQP and HTTP would be greeted, and prints every byte that it gets.
SQUATTER = """
import os, socket, sys
from pika import spec, frame
os.setuid(int(sys.argv[1]))
greeting = frame.Method(0, spec.Connection.Start(server_properties={}, mechanisms=b"PLAIN AMQPLAIN")).marshal()
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        link, _ = server.accept()
        link.settimeout(3)
        try:
            first = link.recv(4096)
            print(repr(first), flush=True)
            if first.startswith(b"AMQP"):
                link.sendall(greeting)
                print(repr(link.recv(4096)), flush=True)
        except OSError:
            pass
        link.close()
"""


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server((LOOPBACK, 0)) as server, socket.create_connection(server.getsockname()) as client:
        yield server, client


def test_the_kernel_names_the_owner_of_the_other_end_once_it_has_accepted() -> None:
    with pair() as (server, client):
        assert owner_of_other_end(client) is None

        accepted, _ = server.accept()

        assert owner_of_other_end(client) == os.geteuid()
        require_owner(client, os.geteuid())
        accepted.close()


def test_another_owner_than_the_brokers_is_a_stranger() -> None:
    with pair() as (server, client):
        accepted: list[object] = []
        accepting = threading.Thread(target=lambda: accepted.append(server.accept()), daemon=True)
        accepting.start()

        with pytest.raises(Stranger, match=f"belongs to user {os.geteuid()}, not to user {os.geteuid() + 1}"):
            require_owner(client, os.geteuid() + 1)

        accepting.join(30)


def test_a_broker_that_is_not_asked_after_may_be_anybodys() -> None:
    with pair() as (_, client):
        require_owner(client, ANYBODY)


@pytest.fixture
def squatter() -> Iterator[subprocess.Popen[str]]:
    if os.geteuid() != 0:
        pytest.skip("only root may run the squatter as another user")
    process = subprocess.Popen([sys.executable, "-c", SQUATTER, str(OTHER)], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


async def test_no_door_gives_a_password_to_whoever_has_taken_the_brokers_port(
    squatter: subprocess.Popen[str], address: NodeAddress
) -> None:
    assert squatter.stdout is not None
    port = int(squatter.stdout.readline())
    node = msgspec.structs.replace(address, amqp_port=port, management_port=port, admin_password="sEcret")
    login = Address(endpoints=(Endpoint(LOOPBACK, port),), user="console-operator", password="sEcret", owner=node.owner)

    with pytest.raises(Disconnected, match=f"belongs to user {OTHER}, not to user {os.geteuid()}"):
        await Connection(login, name="console").open(patience_s=2)
    with pytest.raises(ManagementError, match=f"belongs to user {OTHER}"):
        Management(node.administration).users.names()
    with pytest.raises(BrokerError, match=f"belongs to user {OTHER}"):
        administrator(node.administration)

    squatter.kill()
    heard = squatter.stdout.read()
    assert "AMQP" in heard
    assert "sEcret" not in heard
    assert "c0VjcmV0" not in heard


def test_a_node_of_another_user_than_it_was_is_sent_no_password(address: NodeAddress) -> None:
    wrong = msgspec.structs.replace(address, owner=address.owner + 1)

    assert address.owner == os.geteuid()
    with pytest.raises(ManagementError, match="no password sent"):
        Management(wrong.administration).users.names()
