"""The private node: it starts, stops, keeps its messages, survives kill -9 and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest

from broker.address import VHOST
from broker.errors import NodeError
from broker.node import NodeAddress, PrivateNode, is_answering


@pytest.fixture
def own_node(directory: Path) -> Iterator[PrivateNode]:
    private = PrivateNode(directory)
    yield private
    private.kill()


def open_channel(address: NodeAddress) -> pika.adapters.blocking_connection.BlockingChannel:
    credentials = pika.PlainCredentials(address.admin_user, address.admin_password)
    parameters = pika.ConnectionParameters(address.host, address.amqp_port, VHOST, credentials)
    channel = pika.BlockingConnection(parameters).channel()
    channel.confirm_delivery()
    return channel


def put_one(address: NodeAddress, queue: str, kind: str) -> None:
    channel = open_channel(address)
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
    channel.basic_publish("", queue, b"kept", pika.BasicProperties(delivery_mode=2))
    channel.connection.close()


def take_one(address: NodeAddress, queue: str) -> bytes | None:
    channel = open_channel(address)
    body: bytes | None = eventually(lambda: channel.basic_get(queue, auto_ack=True)[2])
    channel.connection.close()
    return body


def eventually(probe: Callable[[], object], timeout_s: float = 10.0):  # type: ignore[no-untyped-def]
    """Ask until the answer is true or the time is up; give the last answer."""
    deadline = time.monotonic() + timeout_s
    while not (answer := probe()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def processes_naming(text: str) -> list[str]:
    """Command lines and environments of live processes, other than this one, that mention a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if text.encode() in said:
                found.append(f"{entry.name} {said[:60]!r}")
    return found


def epmd_processes() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # ended since it was listed
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == "epmd":
                found.add(entry.name)
    return found


def listeners_of(pid: int) -> set[tuple[str, int]]:
    """Addresses on which a process listens, from /proc: every socket of its that is in state LISTEN."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed: no socket that listens all the time
            if match := re.match(r"socket:\[(\d+)\]", str(link.readlink())):
                inodes.add(match[1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ip, port = fields[1].split(":")
                host = socket.inet_ntoa(bytes.fromhex(ip)[::-1]) if len(ip) == 8 else ip
                found.add((host, int(port, 16)))
    return found


def wait_flushed(node: PrivateNode, queue: str) -> None:
    """Wait until a quorum queue's name is on disk: 3.10 writes it up to a second after it confirmed messages."""
    assert eventually(lambda: any(queue.encode() in path.read_bytes() for path in node.directory.rglob("names.dets")))


def test_a_node_listens_on_loopback_only(node: PrivateNode, address: NodeAddress) -> None:
    assert node.pid is not None
    ports = {address.amqp_port, address.management_port, address.prometheus_port}
    assert listeners_of(node.pid) == {("127.0.0.1", port) for port in ports}


def test_messages_survive_a_restart_on_the_same_address(own_node: PrivateNode) -> None:
    address = own_node.start()
    put_one(address, "classic", "classic")
    put_one(address, "quorum", "quorum")

    own_node.stop()
    again = own_node.start()

    assert again == address
    assert take_one(again, "classic") == b"kept"
    assert take_one(again, "quorum") == b"kept"


def test_messages_survive_the_death_of_the_node(own_node: PrivateNode) -> None:
    address = own_node.start()
    put_one(address, "classic", "classic")
    put_one(address, "quorum", "quorum")
    wait_flushed(own_node, "quorum")
    assert own_node.pid is not None

    os.kill(own_node.pid, signal.SIGKILL)
    assert own_node.wait(10) == -signal.SIGKILL
    assert not own_node.is_running()
    again = own_node.start()

    assert take_one(again, "classic") == b"kept"
    assert take_one(again, "quorum") == b"kept"


def test_a_quorum_queue_made_just_before_the_death_of_the_node_takes_messages_again(own_node: PrivateNode) -> None:
    put_one(own_node.start(), "young", "quorum")
    own_node.kill()

    again = own_node.start()
    put_one(again, "young", "quorum")

    assert take_one(again, "young") == b"kept"


def test_stopping_leaves_no_process_and_may_be_done_twice(own_node: PrivateNode) -> None:
    epmds = epmd_processes()
    own_node.start()

    own_node.stop()
    own_node.stop()

    assert not own_node.is_running()
    assert eventually(lambda: not processes_naming(str(own_node.directory)))
    assert epmd_processes() == epmds
    assert not (own_node.directory / "node.pid").exists()


def test_starting_a_running_node_changes_nothing(node: PrivateNode, address: NodeAddress) -> None:
    pid = node.pid

    assert node.start() == address
    assert node.pid == pid


def test_a_node_goes_when_the_process_that_started_it_is_killed(directory: Path) -> None:
    code = f"""if True:
        import time, pathlib
        from broker.node import PrivateNode
        print(PrivateNode(pathlib.Path({str(directory)!r})).start().amqp_port, flush=True)
        time.sleep(600)
    """
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert owner.stdout is not None
    port = int(owner.stdout.readline())
    assert is_answering("127.0.0.1", port)

    owner.kill()
    owner.wait()
    owner.stdout.close()

    assert eventually(lambda: not processes_naming(str(directory)), 20)


def test_a_node_that_outlived_its_owner_is_ended_by_the_next_start(directory: Path) -> None:
    first, second = PrivateNode(directory), PrivateNode(directory)
    address = first.start()
    left = first.pid

    try:
        again = second.start()

        assert again == address
        assert second.pid != left
        assert not first.is_running()
    finally:
        second.stop()


def test_a_stranger_with_the_recorded_pid_is_left_alone(own_node: PrivateNode) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        own_node.directory.mkdir(parents=True)
        record = f'{{"pid": {stranger.pid}, "started": 1, "boot": "another"}}'
        (own_node.directory / "node.pid").write_text(record)

        own_node.start()

        assert stranger.poll() is None
        stranger.kill()


def test_a_port_that_was_taken_is_chosen_anew(own_node: PrivateNode) -> None:
    address = own_node.start()
    own_node.stop()
    with socket.create_server(("127.0.0.1", address.amqp_port)):
        again = own_node.start()

    assert again.amqp_port != address.amqp_port
    assert again.management_port == address.management_port
    assert again.admin_password == address.admin_password


def test_secrets_are_for_their_owner_alone(node: PrivateNode, address: NodeAddress) -> None:
    for name in ("node.json", "rabbitmq.conf", ".erlang.cookie"):
        assert stat.S_IMODE((node.directory / name).stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(node.directory.stat().st_mode) == 0o700
    assert address.admin_password not in repr(address)
    assert address.admin_password.encode() not in Path(f"/proc/{node.pid}/cmdline").read_bytes()


def test_there_is_no_guest(address: NodeAddress) -> None:
    credentials = pika.PlainCredentials("guest", "guest")
    parameters = pika.ConnectionParameters(address.host, address.amqp_port, VHOST, credentials)

    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(parameters)


def test_a_missing_rabbitmq_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="install RabbitMQ"):
        PrivateNode(tmp_path, scripts=tmp_path / "nowhere").start()


def test_a_node_that_cannot_start_says_why_and_is_gone(own_node: PrivateNode) -> None:
    own_node.directory.mkdir(parents=True)
    (own_node.directory / "conf.d").mkdir()
    (own_node.directory / "conf.d" / "wrong.conf").write_text("no_such_setting = 1\n")

    with pytest.raises(NodeError, match=r"boot\.log.*no_such_setting"):
        own_node.start()

    assert not own_node.is_running()
    assert eventually(lambda: not processes_naming(str(own_node.directory)))
