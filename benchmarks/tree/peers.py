"""rsync's daemon and Chirp, each with a server on loopback; both pushes give the seconds that they took."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: How long the daemon may take to listen, seconds.
PATIENCE_S = 10.0


@contextmanager
def rsync_daemon(root: Path) -> Iterator[int]:
    """Run rsync's daemon on loopback with a module ``in``, and give its port."""
    (root / "in").mkdir(parents=True)
    port = _free_port()
    config = root / "rsyncd.conf"
    config.write_text(
        f"use chroot = no\nlog file = {root}/log\npid file = {root}/pid\n"
        f"[in]\npath = {root}/in\nread only = no\nuid = {Path(root).owner()}\ngid = {Path(root).group()}\n"
    )
    command = ["rsync", "--daemon", "--no-detach", f"--config={config}", "--address=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


def rsync_push(source: Path, port: int, name: str) -> float:
    """Push a tree with rsync."""
    return _timed(["rsync", "-a", f"{source}/", f"rsync://127.0.0.1:{port}/in/{name}/"])


def chirp_put(source: Path, port: int, name: str) -> float:
    """Put a tree with Chirp."""
    return _timed(["chirp_put", "-a", "address", str(source), f"127.0.0.1:{port}", f"/{name}"])


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return time.perf_counter() - began


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"rsync --daemon did not start: {process.poll()}")
