"""``python relay.py HOST PORT``: join standard input and output to one TCP connection, until either side closes.

QEMU starts one for each connection that a guest opens to the broker's address; that is how a guest without a network
reaches the broker and nothing else. HOST and PORT come from the host agent's command line, never from the guest.
Imports only what starts fast. Standard error is the guest's stream too, so nothing may ever be written to it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

#: A connection that the broker's side does not take for this long is given up; the guest tries again.
CONNECT_TIMEOUT_S = 10.0
_BLOCK_BYTES = 64 * 1024


def main(arguments: list[str]) -> int:
    """Relay until either side closes: 0, or 1 without a connection, or 2 if HOST PORT make no sense."""
    address = parse(arguments)
    if address is None:
        return 2
    try:
        connection = socket.create_connection(address, CONNECT_TIMEOUT_S)
    except OSError:
        return 1
    with connection:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pump(connection.fileno(), sys.stdin.fileno(), sys.stdout.fileno())
    return 0


def parse(arguments: list[str]) -> tuple[str, int] | None:
    """Give the address that the arguments name; None unless they are one host and one port."""
    if len(arguments) != 2 or not arguments[1].isdecimal() or not 0 < int(arguments[1]) < 65536:
        return None
    host, port = arguments
    allowed = all(letter.isalnum() or letter in "-.:%_" for letter in host)
    return (host, int(port)) if host and allowed and not host.startswith("-") else None


def pump(connection: int, source: int, sink: int) -> None:
    """Copy both ways between descriptors until one way ends or breaks.

    A thread each way: a broker that has stopped reading must still be heard.
    """
    has_ended = threading.Event()
    for pair in ((source, connection), (connection, sink)):
        threading.Thread(target=_copy, args=(*pair, has_ended), daemon=True).start()
    has_ended.wait()


def _copy(source: int, sink: int, has_ended: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while block := os.read(source, _BLOCK_BYTES):
            _write_all(sink, block)
    has_ended.set()


def _write_all(sink: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(sink, rest) :]


if __name__ == "__main__":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(main(sys.argv[1:]))
