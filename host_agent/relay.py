"""``python relay.py FILE [COUNTS]``: join standard input and output to one TCP connection, until either side closes.

QEMU starts one for each connection that a guest opens to the broker's address; that is how a guest without a network
reaches the broker and nothing else. FILE is the host's own credential, or what that says of the broker: where it is
now, whatever it was when the VM was made or its memory saved. COUNTS is the number of an open file, in which it adds up
what it carries. Imports only what starts fast. Standard error is the guest's stream too, so nothing may ever be written
to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable

# Started without any search path of ours (-I -S): the checkout or the site-packages that this file is in. In an archive
# all lies beside it.
if "/host_agent/" in __file__:
    sys.path.append(__file__.rpartition("/host_agent/")[0])

from broker.peer import ANYBODY, require_owner

#: A connection that the broker's side does not take for this long is given up; the guest tries again.
CONNECT_TIMEOUT_S = 10.0
#: The same where there are other endpoints to try.
NEXT_TIMEOUT_S = 2.0
_BLOCK_BYTES = 64 * 1024
#: What a file of counts holds: bytes from the guest, and to it.
COUNTS = "<QQ"
_COUNT_BYTES = 8


def main(arguments: list[str]) -> int:
    """Relay until either side closes: 0, or 1 without a broker, or 2 if the arguments make no sense.

    A private node's port that somebody else holds is no broker: the guest's password is not for him.
    """
    if len(arguments) not in (1, 2) or not all(one.isdigit() for one in arguments[1:]):
        return 2
    counts = int(arguments[1]) if arguments[1:] else -1
    try:
        connection = connect(*read_endpoints(arguments[0]))
    except (OSError, ValueError, KeyError, TypeError):
        return 1
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)
        pump(connection.fileno(), sys.stdin.fileno(), sys.stdout.fileno(), counts)
    return 0


def connect(endpoints: list[tuple[str, int]], owner: int) -> socket.socket:
    """Connect to one of the endpoints that belongs to its owner: each in turn, beginning anywhere. Raises OSError."""
    timeout_s = CONNECT_TIMEOUT_S if len(endpoints) == 1 else NEXT_TIMEOUT_S
    first = os.urandom(1)[0] % len(endpoints)
    for endpoint in endpoints[first:] + endpoints[:first]:
        try:
            connection = socket.create_connection(endpoint, timeout_s)
        except OSError:
            continue
        try:
            require_owner(connection, owner)
        except OSError:
            connection.close()
        else:
            return connection
    raise ConnectionError("no endpoint answers")


def read_endpoints(path: str) -> tuple[list[tuple[str, int]], int]:
    """Give the endpoints of a credential, and who must own the broker. Raises OSError, or that it makes no sense."""
    with open(path, "rb") as file:  # noqa: PTH123  importing pathlib takes as long as all the rest
        fields = json.load(file)
    endpoints = [(str(one["host"]), int(one["port"])) for one in fields["endpoints"]]
    if not endpoints:
        raise ValueError("no endpoints")
    return endpoints, int(fields.get("owner", ANYBODY))


def pump(connection: int, source: int, sink: int, counts: int = -1) -> None:
    """Copy both ways between descriptors until one way ends or breaks; ``counts`` is an open file, if not negative.

    A thread each way: a broker that has stopped reading must still be heard.
    """
    has_ended = threading.Event()
    for number, pair in enumerate(((source, connection), (connection, sink))):
        count = _counter(counts, number * _COUNT_BYTES) if counts >= 0 else lambda size: None
        threading.Thread(target=_copy, args=(*pair, has_ended, count), daemon=True).start()
    has_ended.wait()


def _counter(counts: int, at: int) -> Callable[[int], None]:
    """Give what adds to one of the counts, which nobody else does meanwhile."""
    known = os.pread(counts, _COUNT_BYTES, at)
    total = struct.unpack("<Q", known)[0] if len(known) == _COUNT_BYTES else 0

    def count(size: int) -> None:
        nonlocal total
        total += size
        # A disk that is full ends no connection.
        with contextlib.suppress(OSError):
            os.pwrite(counts, struct.pack("<Q", total), at)

    return count


def _copy(source: int, sink: int, has_ended: threading.Event, count: Callable[[int], None]) -> None:
    with contextlib.suppress(OSError):
        while block := os.read(source, _BLOCK_BYTES):
            count(len(block))  # before it is passed on: whoever has it may end us at once
            _write_all(sink, block)
    has_ended.set()


def _write_all(sink: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(sink, rest) :]


if __name__ == "__main__":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(main(sys.argv[1:]))
