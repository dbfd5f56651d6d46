"""TLS to a real broker by every road that this project has to one, and what is said where it cannot be trusted."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from broker.address import Address, AdminAddress
from broker.connection import Connection
from broker.entities import administrator, declare
from broker.errors import BrokerError, Disconnected, ManagementError, Untrusted
from broker.management import Management
from broker.minting import mint, new_password
from broker.node import LOOPBACK, PrivateNode
from broker.ports import free_ports
from broker.principals import parse_principal
from broker.routes import queue_of
from broker.topology import Profile
from schemas.endpoints import Endpoint, Tls
from schemas.envelope import Done
from schemas.vms import VmPause
from tests.broker.certificates import Authority
from tests.broker.conftest import require_rabbitmq
from tests.broker.test_rpc import Host, caller_of

NAME = "broker.example.org"
_CONFIG = """
listeners.ssl.1 = 127.0.0.1:{amqps}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {certificate}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
management.ssl.ip = 127.0.0.1
management.ssl.port = {https}
management.ssl.cacertfile = {ca}
management.ssl.certfile = {certificate}
management.ssl.keyfile = {certificate}
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def administration(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminAddress]:
    """A broker with TLS listeners beside its plain ones, reached by TLS; its certificate has another name than it."""
    require_rabbitmq()
    directory = tmp_path_factory.mktemp("node")
    amqps, https = free_ports(LOOPBACK, (0, 0))
    (directory / "conf.d").mkdir()
    values = {"ca": authority.ca_file, "certificate": authority.issue(NAME), "amqps": amqps, "https": https}
    (directory / "conf.d" / "tls.conf").write_text(_CONFIG.format(**values))
    node = PrivateNode(directory)
    try:
        plain = node.start().administration
        tls = authority.tls(name=NAME)
        there = {"endpoints": (Endpoint(LOOPBACK, amqps),), "management": (Endpoint(LOOPBACK, https),)}
        made: AdminAddress = replace(plain, tls=tls, **there)
        with administrator(made) as declarer:
            declare(declarer, Profile.SINGLE)
        yield made
    finally:
        node.stop()


@pytest.fixture
def minted(administration: AdminAddress) -> Callable[[str], Address]:
    """Make a principal, by the management API and kombu over TLS."""

    def make(name: str) -> Address:
        password = new_password()
        with administrator(administration) as declarer:
            mint(Management(administration), declarer, parse_principal(name), password)
        return administration.login(name, password)

    return make


async def test_agents_consoles_and_the_administrators_edges_go_over_tls(
    minted: Callable[[str], Address], tmp_path: Path
) -> None:
    host = Host(minted("host-a"), tmp_path)
    async with host.up(), caller_of(minted("console-a")) as caller:
        command = VmPause(vm="vm-1")

        answer = await caller.call("host-a", command, Done)

    assert (answer.call, host.runs) == (command.id, [command.id])


#: What is not as it should be, and what is said of it.
SENTENCES = {
    "other authority": "its certificate is of an authority that tls.ca does not have",
    "other name": "its certificate is another name's, not tls.name = 'elsewhere.example.org'",
    "no name": "its certificate is another name's, not the name of the endpoint",
    "plain": "it speaks TLS on that port: the credential needs a tls part",
}


@pytest.fixture(params=SENTENCES)
def wrong(
    request: pytest.FixtureRequest, administration: AdminAddress, authority: Authority, tmp_path: Path
) -> tuple[AdminAddress, str]:
    """The broker's address with something wrong in it, and the sentence for it."""
    parts: dict[str, Tls | None] = {
        "other authority": Authority(tmp_path).tls(name=NAME),
        "other name": authority.tls(name="elsewhere.example.org"),
        "no name": authority.tls(),
        "plain": None,
    }
    return replace(administration, tls=parts[request.param]), SENTENCES[request.param]


async def test_what_cannot_be_trusted_is_said_in_a_sentence_with_the_endpoint(wrong: tuple[AdminAddress, str]) -> None:
    address, sentence = wrong
    said = re.escape(f"{address.endpoints[0]}: {sentence}")

    with pytest.raises(Untrusted, match=said):
        await Connection(address.login("host-a", "x"), name="host").open(patience_s=10)


def test_the_administrators_edges_say_it_too(wrong: tuple[AdminAddress, str]) -> None:
    address, sentence = wrong

    with pytest.raises(BrokerError, match=re.escape(sentence) if address.tls else str(address.endpoints[0])):
        administrator(address, patience_s=4)
    with pytest.raises(ManagementError, match=re.escape(sentence) if address.tls else str(address.management[0])):
        Management(address, timeout_s=4).users.names()


@contextmanager
def listening(certificate: Path, ca: Path | None = None) -> Iterator[Endpoint]:
    """A TLS listener that says nothing, with that certificate; with ``ca`` it wants one too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                    while wrapped.recv(1 << 16):
                        pass

    with socket.create_server((LOOPBACK, 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield Endpoint(LOOPBACK, server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


async def test_a_certificate_that_has_expired_is_said_to_have(authority: Authority) -> None:
    with listening(authority.issue(NAME, days=-1)) as endpoint:
        address = Address(endpoints=(endpoint,), user="host-a", password="x", tls=authority.tls(name=NAME))

        with pytest.raises(Untrusted, match=f"{endpoint}: its certificate has expired: renew it there"):
            await Connection(address, name="host").open(patience_s=10)


async def test_a_broker_that_wants_our_certificate_says_so_and_takes_it(authority: Authority) -> None:
    with listening(authority.issue(NAME), authority.ca_file) as endpoint:
        address = Address(endpoints=(endpoint,), user="host-a", password="x", tls=authority.tls(name=NAME))
        ours = replace(address, tls=authority.tls(name=NAME, certificate=str(authority.issue("host-a"))))

        with pytest.raises(Untrusted, match=r"it wants a certificate of ours: name one in tls\.certificate"):
            await Connection(address, name="host").open(patience_s=10)
        with pytest.raises(Disconnected, match="no broker in 1 s"):  # it is let in, and hears nothing
            await Connection(ours, name="host").open(patience_s=1)


async def test_tls_to_a_plain_listener_is_told_from_a_broker_that_is_away(
    administration: AdminAddress, authority: Authority
) -> None:
    async with await asyncio.start_server(lambda _, writer: writer.write(b"AMQP\0\0\x09\x01"), LOOPBACK, 0) as server:
        endpoint = Endpoint(LOOPBACK, server.sockets[0].getsockname()[1])

        with pytest.raises(Untrusted, match="it does not speak TLS on that port"):
            await Connection(replace(administration, endpoints=(endpoint,)).login("host-a", "x"), name="h").open(
                patience_s=10
            )


@pytest.mark.parametrize(
    ("tls", "part"),
    [
        (Tls(ca="nothing"), "tls.ca: no PEM text of certificates"),
        (None, "tls.certificate = '/none.pem': no certificate with its key"),
    ],
)
async def test_a_tls_part_that_makes_no_sense_is_named(tls: Tls | None, part: str, authority: Authority) -> None:
    tls = tls or authority.tls(certificate="/none.pem")
    address = Address(endpoints=(Endpoint(LOOPBACK, 1),), user="host-a", password="x", tls=tls)

    with pytest.raises(Untrusted, match=part):
        await Connection(address, name="host").open(patience_s=10)


def test_a_queue_of_ours_is_where_it_was(minted: Callable[[str], Address], administration: AdminAddress) -> None:
    login = minted("vm-b")

    assert queue_of(login.user) in [info.name for info in Management(administration).topology.queues()]
