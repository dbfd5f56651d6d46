"""A broker that lets in only who shows a certificate of its authority: with one, without, and with another's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from broker.address import Address, AdminAddress
from broker.connection import Connection
from broker.entities import administrator, declare
from broker.errors import BrokerError, ManagementError, Untrusted
from broker.management import Management
from broker.minting import mint, new_password
from broker.node import LOOPBACK, PrivateNode
from broker.ports import free_ports
from broker.principals import parse_principal
from broker.topology import Profile
from schemas.endpoints import Endpoint, Tls
from schemas.envelope import Done
from schemas.vms import VmPause
from tests.broker.certificates import Authority
from tests.broker.conftest import require_rabbitmq
from tests.broker.test_rpc import Host, caller_of

_CONFIG = """
listeners.ssl.1 = 127.0.0.1:{amqps}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {certificate}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_options.versions.1 = tlsv1.{minor}
management.ssl.ip = 127.0.0.1
management.ssl.port = {https}
management.ssl.cacertfile = {ca}
management.ssl.certfile = {certificate}
management.ssl.keyfile = {certificate}
management.ssl.verify = verify_peer
management.ssl.fail_if_no_peer_cert = true
management.ssl.versions.1 = tlsv1.{minor}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", params=["2", "3"], ids=["TLS 1.2", "TLS 1.3"])
def administration(
    request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AdminAddress]:
    """Such a broker, reached with a certificate of ours. In TLS 1.3 it says no only after its own handshake is done."""
    require_rabbitmq()
    directory = tmp_path_factory.mktemp("node")
    amqps, https = free_ports(LOOPBACK, (0, 0))
    (directory / "conf.d").mkdir()
    values = {"ca": authority.ca_file, "certificate": authority.issue(LOOPBACK), "amqps": amqps, "https": https}
    (directory / "conf.d" / "tls.conf").write_text(_CONFIG.format(**values, minor=request.param))
    node = PrivateNode(directory)
    try:
        tls = authority.tls(certificate=str(authority.issue("client.example.org")))
        there = {"endpoints": (Endpoint(LOOPBACK, amqps),), "management": (Endpoint(LOOPBACK, https),)}
        made: AdminAddress = replace(node.start().administration, tls=tls, **there)
        with administrator(made) as declarer:
            declare(declarer, Profile.SINGLE)
        yield made
    finally:
        node.stop()


def minted(administration: AdminAddress, name: str) -> Address:
    password = new_password()
    with administrator(administration) as declarer:
        mint(Management(administration), declarer, parse_principal(name), password)
    return administration.login(name, password)


async def test_who_shows_a_certificate_of_the_brokers_authority_is_let_in(
    administration: AdminAddress, tmp_path: Path
) -> None:
    host = Host(minted(administration, "host-a"), tmp_path)
    async with host.up(), caller_of(minted(administration, "console-a")) as caller:
        command = VmPause(vm="vm-1")

        answer = await caller.call("host-a", command, Done)

    assert (answer.call, host.runs) == (command.id, [command.id])


#: What is shown, and what is said of it.
SENTENCES = {
    "none": "it wants a certificate of ours: name one in tls.certificate",
    "another authority's": "it refuses the certificate that tls.certificate names",
    "an expired one": "it refuses the certificate that tls.certificate names",
}


@pytest.fixture(params=SENTENCES)
def wrong(
    request: pytest.FixtureRequest, administration: AdminAddress, authority: Authority, tmp_path: Path
) -> tuple[AdminAddress, str]:
    certificates = {
        "none": "",
        "another authority's": str(Authority(tmp_path).issue("client.example.org")),
        "an expired one": str(authority.issue("client.example.org", days=-1)),
    }
    tls = Tls(ca=authority.ca_file.read_text(), certificate=certificates[request.param])
    return replace(administration, tls=tls), SENTENCES[request.param]


async def test_who_is_not_let_in_is_told_why_with_the_endpoint(wrong: tuple[AdminAddress, str]) -> None:
    address, sentence = wrong

    with pytest.raises(Untrusted, match=re.escape(f"{address.endpoints[0]}: {sentence}")):
        await Connection(address.login("host-a", "x"), name="host").open(patience_s=10)


def test_an_administrator_who_is_not_let_in_is_told_too(wrong: tuple[AdminAddress, str]) -> None:
    address, sentence = wrong

    with pytest.raises(BrokerError, match=re.escape(sentence)):
        administrator(address, patience_s=4)
    with pytest.raises(ManagementError, match=re.escape(sentence)):
        Management(address, timeout_s=4).users.names()
