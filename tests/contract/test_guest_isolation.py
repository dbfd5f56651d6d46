"""What a guest reaches of its host: every listening port on every address, IPv6, UDP and DNS. Nothing, but the relay.

Each probe is first seen to work from a guest whose restriction is lifted: a probe that cannot succeed proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from host_agent.hypervisors.qemu import command as qemu_command
from tests.contract.test_guest_image import Broker, broker, probe_image

__all__ = ["broker", "probe_image"]

pytestmark = pytest.mark.qemu

#: The host as QEMU's user networking shows it: its IPv4 loopback, its IPv6 loopback, its resolver.
HOST_V4, HOST_V6, RESOLVER = "10.0.2.2", "fec0::2", "10.0.2.3"
RELAY = ("10.0.2.100", 5672)

#: Runs in the guest: tries every target at once, prints which answered.
PROBE = """
import concurrent.futures, json, socket, sys
def reach(target):
    kind, host, port = target
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as s:
            s.settimeout(3.0)
            s.connect((host, port))
            if kind == "udp":
                s.send(bytes.fromhex("abcd01000001000000000000096c6f63616c686f73740000010001"))
                s.recv(512)
            return True
    except OSError:
        return False
targets = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(reach, targets))))
"""

#: Waits in the guest until its IPv6 address has come by autoconfiguration, at most 15 s: it needs none to be probed.
HAVE_IPV6 = "for i in $(seq 30); do grep -q ^fec0 /proc/net/if_inet6 && break; sleep 0.5; done"

Target = tuple[str, str, int]


@contextlib.contextmanager
def listeners() -> Iterator[dict[str, int]]:
    """Listen on every kind of address of this host; give the ports by kind."""
    with contextlib.ExitStack() as stack:
        ports: dict[str, int] = {}
        for kind, family, address in (("v4", socket.AF_INET, "127.0.0.1"), ("v6", socket.AF_INET6, "::1")):
            opened = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            opened.bind((address, 0))
            opened.listen(64)
            ports[kind] = opened.getsockname()[1]
        own = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        own.bind((own_address(), 0))
        own.listen(64)
        ports["own"] = own.getsockname()[1]
        yield ports


def own_address() -> str:
    """Give an address of this host that is not its loopback; the loopback where it has no other."""
    with contextlib.suppress(OSError):
        for address in socket.gethostbyname_ex(socket.gethostname())[2]:
            if not address.startswith("127."):
                return address
    return "127.0.0.1"


def listening_ports() -> list[int]:
    """List every TCP port on which anything of this host listens, on whatever address."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                found.add(int(local.rpartition(":")[2], 16))
    return sorted(found)


class Echo(asyncio.DatagramProtocol):
    """Answers every datagram."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.transport.sendto(data, address)  # type: ignore[attr-defined]


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    yield transport.get_extra_info("sockname")[1]
    transport.close()


def resolver_answers() -> bool:
    """Say whether this host's own resolver answers at all; only then can a guest's question be answered."""
    query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\tlocalhost\0\0\1\0\1"
    servers = [w.split()[1] for w in Path("/etc/resolv.conf").read_text().splitlines() if w.startswith("nameserver")]
    for server in servers[:1]:
        with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(2.0)
            with contextlib.suppress(OSError):
                asking.sendto(query, (server, 53))
                return bool(asking.recv(512))
    return False


async def reached_by(guest: Broker, targets: list[Target]) -> list[Target]:
    """Let the guest try, and give the targets that answered."""
    arguments = json.dumps(targets)
    said = await guest.ask("shell", f"python3 - '{arguments}' <<'END'\n{PROBE}\nEND\n")
    return [target for target, is_reached in zip(targets, json.loads(said), strict=True) if is_reached]


async def boot(qemu_rig, image, broker: Broker):
    opened = await qemu_rig.open()
    spec = msgspec.structs.replace(
        qemu_rig.spec("vm-a"), image=image, broker=qemu_rig.broker_at(broker.port), disk_mib=3000
    )
    await opened.create(spec)
    await opened.start("vm-a", b"first")
    assert await broker.hear("seed") == "first"
    await broker.ask("shell", HAVE_IPV6)


def targets_of(ports: dict[str, int], echo_port: int) -> list[Target]:
    certain: list[Target] = [
        ("tcp", HOST_V4, ports["v4"]),
        ("tcp", HOST_V6, ports["v6"]),
        ("tcp", own_address() if own_address() != "127.0.0.1" else HOST_V4, ports["own"]),
        ("udp", HOST_V4, echo_port),
    ]
    return [*certain, *([("udp", RESOLVER, 53)] if resolver_answers() else [])]


async def test_without_the_restriction_every_probe_reaches_the_host(
    qemu_rig, probe_image, broker, echo_port, monkeypatch
):
    monkeypatch.setattr(qemu_command, "_RESTRICTION", "restrict=off")
    await boot(qemu_rig, probe_image, broker)
    with listeners() as ports:
        targets = targets_of(ports, echo_port)

        assert await reached_by(broker, targets) == targets


async def test_a_guest_reaches_the_relay_and_nothing_else(qemu_rig, probe_image, broker, echo_port):
    await boot(qemu_rig, probe_image, broker)
    with listeners() as ports:
        everything = targets_of(ports, echo_port)
        addresses = {HOST_V4, HOST_V6, own_address(), RESOLVER, RELAY[0]} - {"127.0.0.1"}
        every_port = sorted({*listening_ports(), 53})
        everything += [("tcp", address, port) for address in sorted(addresses) for port in every_port]
        everything += [("udp", RESOLVER, 53)]
        everything = [target for target in everything if target[1:] != RELAY]

        reached = await reached_by(broker, [*everything, ("tcp", *RELAY)])

    assert reached == [("tcp", *RELAY)]
