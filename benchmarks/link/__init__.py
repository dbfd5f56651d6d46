"""Files over a slow and long way: 100 Mbit/s, 20 ms each way. Ours beside what the link carries, Chirp and rsync.

Centre and sender have a network namespace each. Between them packets are delayed, not bytes of a connection: each
contestant's TCP sees the delay as it would see a real one. Needs root, which may make namespaces and devices.
"""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from benchmarks.figures import Figure

#: How long all of it may take, seconds.
MOST_S = 3600.0


def run(*, quick: bool) -> list[Figure]:
    """Measure MB/s in namespaces of their own; nothing of them is left afterwards."""
    if os.geteuid() != 0:
        raise SystemExit("link: only root may make network namespaces; run it as root, or leave it out")
    inside = [sys.executable, "-m", "benchmarks.link.inside", *(["--quick"] if quick else [])]
    command = ["unshare", "--net", *inside]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=MOST_S, check=True)
    return msgspec.json.decode(done.stdout, type=list[Figure])
