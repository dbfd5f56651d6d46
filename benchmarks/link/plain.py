"""What the link carries: ``receive HOST`` says its port and takes connections, ``send HOST PORT FILE`` prints seconds.

One TCP connection, nothing read twice, nothing written: no contestant can be faster.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

_PIECE = 1 << 20


def receive(host: str) -> None:
    """Take one file after the other, and answer each with a byte; until terminated."""
    with socket.create_server((host, 0)) as server:
        sys.stdout.write(f"{server.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            connection, _ = server.accept()
            with connection:
                while connection.recv(_PIECE):
                    pass
                connection.sendall(b".")


def send(host: str, port: int, source: Path) -> float:
    """Send a file and give the seconds until the other end has all of it."""
    with socket.create_connection((host, port)) as connection, source.open("rb") as file:
        began = time.perf_counter()
        connection.sendfile(file)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1) != b".":
            raise RuntimeError("the other end hung up")
        return time.perf_counter() - began


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    else:
        sys.stdout.write(f"{send(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))}\n")
