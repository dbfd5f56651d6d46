"""One real RabbitMQ node for the session, its topology declared, and principals minted on it on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.address import Address
from broker.entities import Declarer, administrator, declare
from broker.errors import NodeError
from broker.management import Management
from broker.minting import mint as mint_principal
from broker.minting import new_password, unmint
from broker.node import NodeAddress, PrivateNode, find_server
from broker.principals import parse_principal
from broker.topology import Profile, centre_queues
from schemas.ids import unguessable

#: ``mint("vm")``, ``mint("site", "cern")``, ``mint("keys")``: a principal with its queues; deleted after the test.
Mint = Callable[..., Address]


def require_rabbitmq() -> None:
    """Skip on a laptop without RabbitMQ, fail in CI."""
    try:
        find_server()
    except NodeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NO BROKER TESTS: {error}")


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    """A running node with the topology; nobody may stop it."""
    require_rabbitmq()
    private = PrivateNode(tmp_path_factory.mktemp("node"))
    private.start()
    try:
        with declarer_of(private.address) as declarer:
            declare(declarer, Profile.SINGLE)
        yield private
    finally:
        private.stop()


@pytest.fixture(scope="session")
def address(node: PrivateNode) -> NodeAddress:
    """Where the node listens."""
    return node.address


@pytest.fixture(scope="session")
def management(address: NodeAddress) -> Management:
    """The node's management API."""
    return Management(address.administration)


@pytest.fixture(scope="session")
def declarer(address: NodeAddress) -> Iterator[Declarer]:
    """The administrator's kombu connection."""
    with declarer_of(address) as connection:
        yield connection


def empty_centre(declarer: Declarer) -> None:
    """Empty the centre's queues: the files before have left in them what they sent."""
    with declarer.channel() as channel:
        for spec in centre_queues(Profile.SINGLE):
            channel.queue_purge(spec.name)


@pytest.fixture
def mint(address: NodeAddress, management: Management, declarer: Declarer) -> Iterator[Mint]:
    """Make principals that last for one test; it begins with empty queues of the centre, which all tests share."""
    empty_centre(declarer)
    made: list[str] = []

    def mint_one(kind: str, name: str = "") -> Address:
        user = kind if kind == "keys" else f"{kind}-{name}" if name else unguessable(kind)
        password = new_password()
        made.append(user)
        mint_principal(management, declarer, parse_principal(user), password)
        return address.login(user, password)

    yield mint_one
    for user in made:
        unmint(management, parse_principal(user))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A place for a node of the test's own."""
    require_rabbitmq()
    return tmp_path / "node"


def declarer_of(address: NodeAddress) -> Declarer:
    """Connect as a node's administrator."""
    return administrator(address.administration)
