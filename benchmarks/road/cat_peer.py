"""The peer: ``serve cat PLACE DIRECTORY`` has a ``cat`` write what comes by a socket, ``send cat PLACE FILE`` has
another one read a file into it. Prints the seconds until both digests are known, and the file is durable."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def serve(place: Path, directory: Path) -> None:
    """Take one file after another; answer with its digest."""
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(place))
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            link, _ = listening.accept()
            with link, (directory / "received").open("wb") as target:
                subprocess.run(["cat"], stdin=link, stdout=target, check=True)
                os.fsync(target.fileno())
                link.sendall(_sha256sum(directory / "received").encode())


def send(place: Path, source: Path) -> float:
    """Send a file, and give the seconds that it took."""
    began = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(os.fspath(place))
        digest = _sha256sum(source)
        subprocess.run(["cat", os.fspath(source)], stdout=link, check=True)
        link.shutdown(socket.SHUT_WR)
        if link.recv(hashlib.sha256().digest_size * 2, socket.MSG_WAITALL).decode() != digest:
            raise RuntimeError("the file is another one")
    return time.perf_counter() - began


def _sha256sum(path: Path) -> str:
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


if __name__ == "__main__":
    role, _, place, argument = sys.argv[1:]
    if role == "serve":
        serve(Path(place), Path(argument))
    else:
        sys.stdout.write(f"{send(Path(place), Path(argument))}\n")
