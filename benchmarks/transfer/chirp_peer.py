"""Chirp, the file service of the Cooperative Computing Tools: a server on loopback and its ``chirp_put``."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: How long the server may take to listen, seconds.
PATIENCE_S = 10.0


@contextmanager
def chirp_server(root: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """Run a server, on loopback if nothing else is said, and give its port."""
    root.mkdir()
    everybody = root / "acl"
    everybody.write_text("address:* rwlda\nunix:* rwlda\n")
    port_file = root / "port"
    # Root must name the account that touches files. Without -u the server reports to a catalogue at its makers'.
    account = ["-i", "root"] if os.geteuid() == 0 else []
    places = ["-r", str(root), "-Z", str(port_file), "-A", str(everybody)]
    command = ["chirp_server", *account, *places, "-I", host, "-u", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _port(port_file, process)
    finally:
        process.terminate()
        process.wait()


def put(source: Path, port: int, host: str = "127.0.0.1", there: Sequence[str] = ()) -> float:
    """Put a file and give MB/s; ``there`` is what runs the command elsewhere."""
    began = time.perf_counter()
    subprocess.run(
        [*there, "chirp_put", "-a", "address", str(source), f"{host}:{port}", "/received"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return source.stat().st_size / 1e6 / (time.perf_counter() - began)


def _port(path: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    raise RuntimeError(f"chirp_server did not start: {process.poll()}")
