"""The relay between a guest's connection and the broker: bytes both ways, an end when either side ends."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.address import Address, write_address
from broker.peer import ANYBODY
from host_agent import relay
from schemas.endpoints import Endpoint


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


@pytest.fixture
def credential(tmp_path: Path, listener: socket.socket) -> Path:
    """The host's credential: it says where the broker is."""
    path = tmp_path / "host.json"
    say_where(path, listener.getsockname()[1])
    return path


def say_where(path: Path, port: int, owner: int = ANYBODY) -> None:
    write_address(path, Address(endpoints=(Endpoint("127.0.0.1", port),), user="host-a", password="x", owner=owner))


def run_relay(credential: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-I", "-S", relay.__file__, str(credential)]
    return subprocess.run(command, input=b"hello", capture_output=True, timeout=20, check=False)


def started_relay(credential: Path) -> subprocess.Popen[bytes]:
    """A relay as QEMU starts it, whose guest has said nothing yet."""
    command = [sys.executable, "-I", "-S", relay.__file__, str(credential)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


@pytest.fixture
def joined(listener: socket.socket, credential: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A relay as QEMU starts it, and the broker's end of its connection."""
    with started_relay(credential) as process:
        connection, _ = listener.accept()
        connection.settimeout(10)
        with connection:
            yield process, connection
        process.kill()


def test_bytes_go_both_ways(joined):
    process, broker = joined

    process.stdin.write(b"AMQP\0\0\x09\x01")
    broker.sendall(b"\xce answer")

    assert broker.recv(100) == b"AMQP\0\0\x09\x01"
    assert process.stdout.read(8) == b"\xce answer"


def test_a_broker_that_does_not_read_is_still_heard(joined):
    process, broker = joined
    # More than the socket and the pipe hold: the guest's direction is stuck.
    process.stdin.write(b"x" * 64 * 1024)

    broker.sendall(b"heartbeat")

    assert process.stdout.read(9) == b"heartbeat"


def test_the_relay_ends_when_the_broker_closes(joined):
    process, broker = joined

    broker.shutdown(socket.SHUT_RDWR)

    assert process.wait(10) == 0


def test_the_relay_ends_when_the_guest_closes(joined):
    process, broker = joined

    process.stdin.close()

    assert broker.recv(1) == b""
    assert process.wait(10) == 0


def test_without_a_broker_it_fails_and_writes_nothing_into_the_guests_stream(
    listener: socket.socket, credential: Path
) -> None:
    listener.close()

    done = run_relay(credential)

    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_broker_that_has_moved_is_found_at_the_next_connection(listener: socket.socket, credential: Path) -> None:
    listener.close()
    assert run_relay(credential).returncode == 1

    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(10)
        say_where(credential, elsewhere.getsockname()[1])
        with started_relay(credential) as process:
            connection, _ = elsewhere.accept()
            with connection:
                connection.sendall(b"here")
                assert process.stdout is not None
                assert process.stdout.read(4) == b"here"
            process.kill()


def test_of_several_endpoints_a_dead_one_is_passed_over(listener: socket.socket, credential: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = Endpoint("127.0.0.1", closed.getsockname()[1])
    live = Endpoint("127.0.0.1", listener.getsockname()[1])
    write_address(credential, Address(endpoints=(dead, live), user="host-a", password="x"))

    for _ in range(6):
        with started_relay(credential) as process:
            connection, _ = listener.accept()
            connection.close()
            assert process.wait(10) == 0


def test_a_port_that_another_user_holds_is_given_no_byte_of_the_guest(
    listener: socket.socket, credential: Path
) -> None:
    heard: list[bytes] = []
    hearing = threading.Thread(target=lambda: heard.append(listener.accept()[0].recv(100)), daemon=True)
    hearing.start()
    say_where(credential, listener.getsockname()[1], owner=os.geteuid() + 1)

    done = run_relay(credential)

    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    hearing.join(10)
    assert heard == [b""]


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_what_is_no_file_is_refused(arguments: list[str]) -> None:
    assert relay.main(arguments) == 2


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"endpoints": []}', '{"endpoints": [{"host": "127.0.0.1", "port": "x"}]}']
)
def test_a_credential_that_says_nothing_is_no_broker(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "host.json").write_text(text)

    assert relay.main([str(tmp_path / "host.json")]) == 1


def test_a_relay_adds_up_what_it_carries_in_the_file_that_it_is_given(
    credential: Path, listener: socket.socket, tmp_path: Path
) -> None:
    place = tmp_path / "relay.0"
    for _ in range(2):
        place.touch()
        with place.open("r+b", buffering=0) as counts:
            command = [sys.executable, "-I", "-S", relay.__file__, str(credential), str(counts.fileno())]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[counts.fileno()], bufsize=0
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                connection, _ = listener.accept()
                process.stdin.write(b"from the guest")
                assert connection.recv(100) == b"from the guest"
                connection.sendall(b"to it")
                assert process.stdout.read(5) == b"to it"
                connection.close()
                process.wait(10)

    assert struct.unpack(relay.COUNTS, place.read_bytes()) == (28, 10)
