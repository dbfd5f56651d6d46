"""The local road between a host and its guest, each end a process: calls beside those over the broker, one at a time,
and a file beside what ``cat`` reaches through a socket of the same kind.

On a Unix socket, as guests of the driver ``process`` have it, so that no emulation is in the figures. Both files are
whole, durable and of the right SHA-256 in the end: behind ``cat`` are ``sync`` and ``sha256sum``, on both sides.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from benchmarks.alternation import alternate
from benchmarks.arena import Arena, measure, serving
from benchmarks.figures import Figure
from benchmarks.transfer import make_file

#: Calls of one run, and of a quick one; the size of the file, and of a quick run's, MiB.
CALLS, QUICK_CALLS = 400, 50
SIZE_MIB, QUICK_SIZE_MIB = 256, 64


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure the median of a call in ms, then MB/s."""
    calls = str(QUICK_CALLS if quick else CALLS)
    host, console = str(arena.admit("host-bench")), str(arena.admit("console-bench"))
    callers = {
        "road": partial(_ends, arena, "road", ("call", calls)),
        "broker": partial(_ends, arena, "broker", ("call", calls), host, console),
    }
    asked = alternate(callers, runs, "ms")
    source = make_file(arena.directory / "source", QUICK_SIZE_MIB if quick else SIZE_MIB)
    senders = {"road": partial(_file, arena, "road", source), "cat": partial(_file, arena, "cat", source)}
    sent = alternate(senders, runs, "MB/s")
    return [
        Figure(name="call by the road, beside broker", unit="ms", ours=asked["road"], peer=asked["broker"], most=1.0),
        Figure(name="file by the road, beside cat", unit="MB/s", ours=sent["road"], peer=sent["cat"], goal=0.6),
    ]


def _file(arena: Arena, way: str, source: Path) -> float:
    (arena.directory / "received").unlink(missing_ok=True)
    return source.stat().st_size / 1e6 / _ends(arena, way, ("send", str(source)))


def _ends(arena: Arena, way: str, task: tuple[str, str], far: str = "", near: str = "") -> float:
    """Run both ends, and give the near one's figure. Over the road both have a socket's place instead of a login."""
    program = "benchmarks.road.cat_peer" if way == "cat" else "benchmarks.road.ours"
    place = str(arena.directory / "road.sock")
    log = arena.directory / f"road-{way}.log"
    with serving([sys.executable, "-m", program, "serve", way, far or place, str(arena.directory)], log):
        return measure([sys.executable, "-m", program, task[0], way, near or place, task[1]], log)[0]
