"""A stranger with a VM's login sends the running centre whatever AMQP can carry; and what the centre is after it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import msgspec

from broker.address import Address, read_address, write_address
from broker.entities import administrator
from broker.management import Management
from broker.minting import mint, new_password, unmint
from broker.node import LOOPBACK, read_node_address
from broker.principals import parse_principal
from schemas.ids import unguessable
from tests.broker.raw_amqp import TAKEN_KINDS, Fuzz, Raw, properties, short, table
from tests.system.running import System
from volcloud.centre.layout import Layout
from volcloud.centre.plan import Names

#: Ways of a VM into the adapters, whose metrics count what is refused.
KINDS = ("request", "beat", "completion", "offer")
#: One in so many hangs up on itself: the broker closes on who sends what it does not know either.
BROKEN_EVERY = 400


@contextmanager
def stranger(system: System) -> Iterator[Address]:
    """A VM's login, with exactly the rights of one; gone afterwards."""
    node = read_node_address(system.layout.node)
    management, name, password = Management(node.administration), unguessable("vm"), new_password()
    with administrator(node.administration) as declarer:
        mint(management, declarer, parse_principal(name), password)
    try:
        yield node.login(name, password)
    finally:
        unmint(management, parse_principal(name))


def flood(login: Address, count: int, seed: int) -> None:
    """Send ``count`` messages that the broker takes, a few hundred to a connection, and some on which it hangs up."""
    fuzz, unknown = Fuzz(seed, TAKEN_KINDS), table(("unknown", b"U\0\0"))
    sent = 0
    while sent < count:
        portion = min(BROKEN_EVERY, count - sent)
        with Raw(login) as raw:
            for number in range(portion):
                key = f"{login.user}.{KINDS[(sent + number) % len(KINDS)]}"
                raw.publish("vc.up", key, fuzz.properties(login.user), b"\xc1 of a fuzzer")
            raw.confirmed()
            raw.publish("vc.up", f"{login.user}.beat", properties(user_id=short(login.user), headers=unknown))
        sent += portion


def flooding(directory: Path, login: Address, count: int, seed: int) -> subprocess.Popen[bytes]:
    """Do as ``flood`` in a process of its own: it takes no turns with whoever measures meanwhile."""
    path = directory / f"{login.user}.json"
    write_address(path, login)
    command = [sys.executable, "-m", "tests.system.fuzzing", str(path), str(count), str(seed)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def refused(layout: Layout, *why: str) -> int:
    """How many messages the adapters have refused, whatever became of them: unread, as beyond a sender's share, or as
    what cannot be read; or for the reasons that are given."""
    found = [one for text in _scraped(layout) for one in _REFUSED.findall(text)]
    return sum(int(float(number)) for reason, number in found if reason in (why or ("undecodable", "flood")))


def reconnects(layout: Layout) -> int:
    """How often an adapter has lost its link."""
    return sum(int(float(number)) for text in _scraped(layout) for number in _RECONNECTS.findall(text))


def p99_s(system: System, seconds: float) -> float:
    """Ask the centre as a person's console does, for so long; give the time within which 99 of 100 answers came."""
    took: list[float] = []
    deadline = time.monotonic() + seconds
    with system.client() as client:
        while time.monotonic() < deadline or len(took) < 20:
            began = time.monotonic()
            client.jobs.list(limit=5)
            took.append(time.monotonic() - began)
    return sorted(took)[int(len(took) * 0.99)]


_REFUSED = re.compile(r'^vc_messages_refused_total\{[^}]*reason="([a-z_]+)"[^}]*\} ([0-9.e+]+)$', re.MULTILINE)
_RECONNECTS = re.compile(r"^vc_broker_reconnects_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


def _scraped(layout: Layout) -> Iterator[str]:
    names = msgspec.json.decode((layout.etc / "names.json").read_bytes(), type=Names)
    for port in names.metrics.values():
        link = HTTPConnection(LOOPBACK, port, timeout=10)
        link.request("GET", "/metrics")
        yield link.getresponse().read().decode()
        link.close()


if __name__ == "__main__":
    flood(read_address(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))
