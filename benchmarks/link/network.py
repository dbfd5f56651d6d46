"""Two network namespaces with a slow and long wire between them: ours, and one more. All of it goes with the block."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Our end and the other's.
NEAR, FAR = "10.77.0.1", "10.77.0.2"
RATE_MBIT, DELAY_MS = 100, 20
#: A router's queue, in time.
QUEUE_MS = 50
_PATIENCE_S = 20.0


@contextmanager
def slow_link() -> Iterator[list[str]]:
    """Lay the wire from the namespace that we are in to one of its own; give what runs a command there."""
    _do("ip", "link", "set", "lo", "up")
    with _until_eof(sys.executable, "-m", "benchmarks.link.relay", "near0", "far0", str(DELAY_MS)) as relay:
        if relay.stdout is None or relay.stdout.readline() != b"ready\n":
            raise RuntimeError("there are no TUN devices here: is /dev/net/tun there, and are we root?")
        with _until_eof("unshare", "--net", "cat") as other:
            _wait_apart(other.pid)
            there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
            _do("ip", "link", "set", "far0", "netns", str(other.pid))
            _do(*there, "ip", "link", "set", "lo", "up")
            _set_up([], "near0", NEAR)
            _set_up(there, "far0", FAR)
            yield there


def _set_up(there: list[str], device: str, address: str) -> None:
    _do(*there, "ip", "address", "add", f"{address}/30", "dev", device)
    _do(*there, "ip", "link", "set", device, "up")
    shape = ("rate", f"{RATE_MBIT}mbit", "burst", "32kb", "latency", f"{QUEUE_MS}ms")
    _do(*there, "tc", "qdisc", "add", "dev", device, "root", "tbf", *shape)


@contextmanager
def _until_eof(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run what ends when its input does, which is when we do, whatever ends us."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(_PATIENCE_S)


def _wait_apart(pid: int) -> None:
    ours, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + _PATIENCE_S
    while Path(f"/proc/{pid}/ns/net").readlink() == ours:
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {pid} got no network namespace")
        time.sleep(0.01)


def _do(*command: str) -> None:
    subprocess.run(command, check=True)
