"""A private RabbitMQ node: one broker in one directory, for one machine, with nothing left behind.

The node listens on loopback only, has no Erlang distribution port and needs no epmd. It is a child of the process that
started it and stops by itself, cleanly, when that process is gone. Ports and the administrator's password are chosen
once and remembered; a port that someone else has taken meanwhile is chosen anew. All calls block.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from string import Template

import msgspec

from broker import durable, node_program
from broker.address import VHOST, Address, AdminAddress, write_address
from broker.daemon.process_identity import ProcessIdentity
from broker.errors import NodeError
from broker.peer import ANYBODY
from broker.ports import free_ports
from schemas.endpoints import Endpoint

#: The only address that a private node listens on.
LOOPBACK = "127.0.0.1"
#: How long a node may take until it answers AMQP, seconds; 2 to 6 are usual.
START_TIMEOUT_S = 60.0
#: How long a node may take to stop before it is killed, seconds.
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.05

#: Where packages put the scripts that run as the calling user. Debian's in /usr/sbin want to be root or rabbitmq.
SCRIPT_DIRS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin", "/usr/local/opt/rabbitmq/sbin")

#: File of the administration, for the key manager.
ADMINISTRATION = "administration.json"

Progress = Callable[[str], None]


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a private node listens and who administers it; kept in ``node.json``, mode 0600."""

    host: str
    amqp_port: int
    management_port: int
    prometheus_port: int
    admin_user: str
    admin_password: str
    #: User id that the node runs as; nobody else is sent a password in its place.
    owner: int = ANYBODY

    @property
    def administration(self) -> AdminAddress:
        """Its administration, as that of any broker."""
        return AdminAddress(
            user=self.admin_user,
            password=self.admin_password,
            endpoints=(Endpoint(self.host, self.amqp_port),),
            management=(Endpoint(self.host, self.management_port),),
            owner=self.owner,
        )

    def login(self, user: str, password: str) -> Address:
        """Give the address of this node for somebody."""
        return self.administration.login(user, password)

    def __repr__(self) -> str:
        return f"NodeAddress({self.host}, amqp {self.amqp_port}, management {self.management_port})"


class PrivateNode:
    """The node of one directory. One object at a time may run it; calls come from one thread, ``wait`` from any."""

    def __init__(self, directory: Path, *, scripts: Path | None = None) -> None:
        self.directory = directory.absolute()
        #: Where the node writes what it has to say.
        self.log = self.directory / "log" / "node.log"
        self._scripts = scripts
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> NodeAddress:
        """Where it listens, or will after its next start. Raises NodeError before the first."""
        return read_node_address(self.directory)

    @property
    def pid(self) -> int | None:
        """The node's process, a child of this one; None when it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def is_running(self) -> bool:
        """The node's process lives; it may still be starting."""
        return self.pid is not None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the process to end and return its exit code; None if it has not in time, or was never started."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def start(self, progress: Progress = lambda _: None, *, timeout_s: float = START_TIMEOUT_S) -> NodeAddress:
        """Bring the node up and return when it answers AMQP; at once if it runs.

        A node that an earlier process left in this directory is ended first. Raises NodeError naming the log; then no
        process is left and the data are as they were.
        """
        if self.is_running():
            return self.address
        began = time.monotonic()
        server = find_server(self._scripts)
        try:
            self._prepare_directory()
            self._end_leftover(progress)
            address = self._settle_address()
            progress(f"starting RabbitMQ on port {address.amqp_port}")
            self._launch(server)
            self._wait_ready(address, began + timeout_s, progress)
        except OSError as error:
            self.kill()
            raise NodeError(f"the RabbitMQ node cannot be started: {error}") from error
        except BaseException:
            self.kill()
            raise
        progress(f"RabbitMQ is up after {time.monotonic() - began:.1f} s")
        return address

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the node and wait until its process is gone; kill it when the time is up. Idempotent, keeps the data."""
        if self._process is None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        if self.wait(timeout_s) is None:
            self.kill()
        self._forget()

    def kill(self) -> None:
        """Kill the node and what it started, and reap it. Idempotent; the next start recovers the data."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._forget()

    def _forget(self) -> None:
        self._process = None
        self._record_path.unlink(missing_ok=True)

    @property
    def _record_path(self) -> Path:
        return self.directory / "node.pid"

    def _prepare_directory(self) -> None:
        for path in (self.directory, self.directory / "log", self.directory / "data"):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
        durable.remove_unfinished(self.directory)

    def _end_leftover(self, progress: Progress) -> None:
        """End the node of an earlier run, told apart from a stranger with its pid by its start time."""
        record = ProcessIdentity.read(self._record_path)
        if record is None or not record.is_alive():
            return
        progress(f"ending the node of an earlier run (pid {record.pid})")
        record.end(STOP_TIMEOUT_S)

    def _settle_address(self) -> NodeAddress:
        """Remember who we are and where we listen; choose what is missing or taken."""
        path = self.directory / "node.json"
        address = read_node_address(self.directory) if path.exists() else _fresh_address()
        ports = free_ports(LOOPBACK, (address.amqp_port, address.management_port, address.prometheus_port))
        address = msgspec.structs.replace(
            address, amqp_port=ports[0], management_port=ports[1], prometheus_port=ports[2], owner=os.geteuid()
        )
        durable.replace(path, msgspec.json.format(msgspec.json.encode(address)))
        write_address(self.directory / ADMINISTRATION, address.administration)
        durable.replace(self.directory / "rabbitmq.conf", render_config(address).encode())
        durable.replace(self.directory / "enabled_plugins", _package_text("enabled_plugins").encode())
        return address

    def _launch(self, server: Path) -> None:
        """Start the process; its record is on disk before the node can do anything. On failure it may run: kill it."""
        self._boot_log.unlink(missing_ok=True)
        with self._boot_log.open("ab") as output:
            self._process = subprocess.Popen(
                node_program.command(server),
                env=node_program.environment(self.directory),
                cwd=self.directory,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        durable.replace(self._record_path, ProcessIdentity.of(self._process.pid).encode())
        if self._process.stdin is not None:
            self._process.stdin.write(b"\n")

    @property
    def _boot_log(self) -> Path:
        return self.directory / "log" / "boot.log"

    def _wait_ready(self, address: NodeAddress, deadline: float, progress: Progress) -> None:
        next_word = time.monotonic() + 5
        while not is_answering(address.host, address.amqp_port):
            code = self.wait(_POLL_S)
            if code is not None:
                raise NodeError(self._failure(f"the RabbitMQ node ended with code {code} while starting"))
            now = time.monotonic()
            if now > deadline:
                raise NodeError(self._failure("the RabbitMQ node did not answer in time and was killed"))
            if now > next_word:
                progress("RabbitMQ is still starting")
                next_word = now + 5

    def _failure(self, what: str) -> str:
        """Say what happened with what the node said first about it, else last."""
        lines = self._boot_log.read_text(errors="replace").splitlines() if self._boot_log.exists() else []
        errors = [text.strip() for line in lines for text in [line.partition("[error]")[2].partition("> ")[2]] if text]
        said = " | ".join(text[:200] for text in errors[:2] or lines[-3:])
        return f"{what}; see {self.log} and {self._boot_log}: {said or 'it said nothing'}"


def find_server(scripts: Path | None = None) -> Path:
    """Find the ``rabbitmq-server`` that runs as the calling user. Raises NodeError saying how to install it."""
    known = [scripts] if scripts else [Path(directory) for directory in SCRIPT_DIRS]
    for directory in known:
        if os.access(directory / "rabbitmq-server", os.X_OK):
            return directory / "rabbitmq-server"
    found = shutil.which("rabbitmq-server") if scripts is None else None
    if found:
        return Path(found)
    places = ", ".join(str(directory) for directory in known)
    raise NodeError(f"rabbitmq-server is not in {places}: install RabbitMQ (apt install rabbitmq-server)")


def read_node_address(directory: Path) -> NodeAddress:
    """Read where the node of a directory listens. Raises NodeError when there is none, or its file is damaged."""
    path = directory / "node.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=NodeAddress)
    except (OSError, msgspec.MsgspecError) as error:
        raise NodeError(f"{path}: no address of a private node: {error}") from error


def render_config(address: NodeAddress) -> str:
    """Fill the node's configuration in."""
    values = {field: getattr(address, field) for field in address.__struct_fields__}
    return Template(_package_text("rabbitmq.conf")).substitute(values, vhost=VHOST)


def is_answering(host: str, port: int) -> bool:
    """Whether an AMQP 0-9-1 broker answers there."""
    try:
        with socket.create_connection((host, port), timeout=2) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"
    except OSError:
        return False


def _fresh_address() -> NodeAddress:
    return NodeAddress(
        host=LOOPBACK,
        amqp_port=0,
        management_port=0,
        prometheus_port=0,
        admin_user="administrator",
        admin_password=secrets.token_urlsafe(24),
    )


def _package_text(name: str) -> str:
    return (resources.files("deploy.rabbitmq") / name).read_text()
