"""Files: ours beside the same road with bare pika, and Chirp's put. SHA-256 on both ends of the first two.

Chunks are transient on a classic queue in both, since a lost one is sent again; the file is durable at the end in both.
Chirp neither hashes nor syncs: its figure shows what the loopback allows.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from benchmarks.alternation import alternate
from benchmarks.arena import Arena, measure, serving
from benchmarks.figures import Figure
from benchmarks.transfer.chirp_peer import chirp_server, put

MIB = 1 << 20
#: Size of the file, and of a quick run's, MiB.
SIZE_MIB, QUICK_SIZE_MIB = 256, 64


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure MB/s, from the first byte read until the receiver's file is durable and its digest right."""
    source = make_file(arena.directory / "source", QUICK_SIZE_MIB if quick else SIZE_MIB)
    credentials = str(arena.admit("vm-bench")), str(arena.admit("adapter-store-bench"))
    with chirp_server(arena.directory / "chirp") as port:
        contestants = {
            "ours": partial(_ours, arena, source, *credentials),
            "pika": partial(_pika, arena, source),
            "chirp": partial(put, source, port),
        }
        reached = alternate(contestants, runs, "MB/s")
    return [
        Figure(name="transfer, beside bare pika", unit="MB/s", ours=reached["ours"], peer=reached["pika"], goal=0.8),
        Figure(name="transfer, beside Chirp (no digest)", unit="MB/s", ours=reached["ours"], peer=reached["chirp"]),
    ]


def make_file(path: Path, size_mib: int) -> Path:
    """Make a file of random bytes."""
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))
    return path


def _ours(arena: Arena, source: Path, vm: str, adapter: str) -> float:
    return _pair(arena, "ours", [adapter, str(arena.directory / "received")], [vm, str(source)])


def _pika(arena: Arena, source: Path) -> float:
    return _pair(
        arena, "pika_peer", [str(arena.peer), str(arena.directory / "received")], [str(arena.peer), str(source)]
    )


def _pair(arena: Arena, contestant: str, receiver: list[str], sender: list[str]) -> float:
    """Run both ends, each a process of its own, and give MB/s."""
    role = [sys.executable, "-m", f"benchmarks.transfer.{contestant}"]
    (arena.directory / "received").unlink(missing_ok=True)  # each writes a new file, none into the last one's pages
    log = arena.directory / f"transfer-{contestant}.log"
    with serving([*role, "receive", *receiver], log):
        seconds = measure([*role, "send", *sender], log)[0]
    return Path(sender[1]).stat().st_size / 1e6 / seconds
