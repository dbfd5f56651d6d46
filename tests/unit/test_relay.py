"""The relay between a guest's connection and the broker: bytes both ways, an end when either side ends."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from host_agent import relay


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


@pytest.fixture
def joined(listener: socket.socket) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A relay as QEMU starts it, and the broker's end of its connection."""
    command = [sys.executable, "-I", "-S", relay.__file__, "127.0.0.1", str(listener.getsockname()[1])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
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


def test_without_a_broker_it_fails_and_writes_nothing_into_the_guests_stream(listener):
    port = listener.getsockname()[1]
    listener.close()

    done = subprocess.run(
        [sys.executable, relay.__file__, "127.0.0.1", str(port)],
        input=b"",
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["host"],
        ["host", "0"],
        ["host", "65536"],
        ["host", "http"],
        ["", "1"],
        ["-x", "1"],
        ["a b", "1"],
        ["a;b", "1"],
    ],
)
def test_what_is_no_address_is_refused(arguments):
    assert relay.parse(arguments) is None
    assert relay.main(arguments) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "broker.example.org", "fe80::1%eth0"])
def test_what_is_an_address_is_taken(host):
    assert relay.parse([host, "5672"]) == (host, 5672)
