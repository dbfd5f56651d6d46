"""The one broker on which all contestants of a benchmark meet: a private node, our topology, a few principals.

Peers log in as a user with every right: what the broker checks for ours comes on top for ours.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.alternation import say
from broker.address import write_address
from broker.entities import administrator, declare
from broker.management import Management
from broker.minting import mint, new_password
from broker.node import NodeAddress, PrivateNode
from broker.principals import parse_principal
from broker.topology import Profile


@dataclass(frozen=True)
class Arena:
    """Where a benchmark runs."""

    directory: Path
    node: NodeAddress
    rabbitmq: str

    @property
    def peer(self) -> Path:
        """File with the peers' credential."""
        return self.directory / "peer.json"

    def admit(self, name: str) -> Path:
        """Make a principal, as the key manager does, and give the file with its credential."""
        node = self.node
        address = node.login(name, new_password())
        with administrator(node.administration) as connection:
            mint(Management(node.administration), connection, parse_principal(name), address.password)
        path = self.directory / f"{name}.json"
        write_address(path, address)
        return path


@contextmanager
def open_arena() -> Iterator[Arena]:
    """Start a node in a temporary directory; nothing is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="volcloud-bench-") as name:
        directory = Path(name)
        node = PrivateNode(directory / "node")
        address = node.start(say)
        try:
            yield _furnish(directory, address)
        finally:
            node.stop()


def _furnish(directory: Path, node: NodeAddress) -> Arena:
    Management(node.administration).ensure_vhost()
    with administrator(node.administration) as connection:
        declare(connection, Profile.SINGLE)
    arena = Arena(directory, node, _rabbitmq_version(node))
    peer = node.login(node.admin_user, node.admin_password)
    write_address(arena.peer, peer)
    return arena


def _rabbitmq_version(node: NodeAddress) -> str:
    link = http.client.HTTPConnection(node.host, node.management_port, timeout=20)
    login = b64encode(f"{node.admin_user}:{node.admin_password}".encode()).decode()
    try:
        link.request("GET", "/api/overview?columns=rabbitmq_version", headers={"Authorization": f"Basic {login}"})
        return str(json.loads(link.getresponse().read())["rabbitmq_version"])
    finally:
        link.close()


class RoleFailed(Exception):
    """A process of a benchmark ended before its time, or said something else than expected."""


@contextmanager
def serving(command: list[str], log: Path) -> Iterator[None]:
    """Run a server until the block ends; it has said ``ready`` on its output when the block begins."""
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            # Celery greets before it is ready; the end of the output ends the wait.
            if not any(line.strip() == "ready" for line in process.stdout or ()):
                raise RoleFailed(f"{' '.join(command)} did not become ready; see {log}:\n{_tail(log)}")
            yield
        finally:
            process.terminate()
            process.communicate(timeout=30)


def measure(command: list[str], log: Path) -> list[float]:
    """Run a client to its end and give the numbers that it prints, one a line."""
    with log.open("ab") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RoleFailed(f"{' '.join(command)} ended with {done.returncode}; see {log}:\n{_tail(log)}")
    return [float(line) for line in done.stdout.split()]


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
