"""Calls: ours, journalled, beside bare pika's ping-pong and Celery's tasks, 50 at a time, everything persistent."""

from __future__ import annotations

import sys
from functools import partial

from benchmarks.alternation import alternate
from benchmarks.arena import Arena, measure, serving
from benchmarks.figures import Figure

#: Calls of one run, and of a quick one.
CALLS, QUICK_CALLS = 5000, 1000
#: Celery is that much slower; its runs are shorter.
CELERY_SHARE = 0.4


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure calls per second."""
    calls = QUICK_CALLS if quick else CALLS
    credentials = str(arena.admit("host-bench")), str(arena.admit("console-bench"))
    contestants = {
        "ours": partial(_ours, arena, calls, *credentials),
        "pika": partial(_pika, arena, calls),
        "celery": partial(_celery, arena, int(calls * CELERY_SHARE)),
    }
    reached = alternate(contestants, runs, "calls/s")
    return [
        Figure(name="rpc, beside bare pika", unit="calls/s", ours=reached["ours"], peer=reached["pika"], goal=0.5),
        Figure(name="rpc, beside Celery", unit="calls/s", ours=reached["ours"], peer=reached["celery"], goal=2.0),
    ]


def _ours(arena: Arena, calls: int, host: str, console: str) -> float:
    return _pair(arena, "ours", [host, str(arena.directory / "rpc-journal")], [console, str(calls)])


def _pika(arena: Arena, calls: int) -> float:
    return _pair(arena, "pika_peer", [str(arena.peer), "-"], [str(arena.peer), str(calls)])


def _celery(arena: Arena, calls: int) -> float:
    return _pair(arena, "celery_peer", [str(arena.peer), "-"], [str(arena.peer), str(calls)])


def _pair(arena: Arena, contestant: str, server: list[str], client: list[str]) -> float:
    """Run both ends of a contestant, each a process of its own, and give the client's figure."""
    role = [sys.executable, "-m", f"benchmarks.rpc.{contestant}"]
    log = arena.directory / f"rpc-{contestant}.log"
    with serving([*role, "serve", *server], log):
        return measure([*role, "call", *client], log)[0]
