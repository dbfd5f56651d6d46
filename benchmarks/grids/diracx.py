"""Jobs of a real DiracX from Waiting to Done, beside what its server could do at best.

The bound is one job by its calls and the server's own time for each: the questions of a run are written down by a
front, and put again to the server alone, one after the other, for as many new jobs; what they take is the server's own.
Runs that are measured ask the server itself, without the front.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.alternation import alternate, say
from benchmarks.figures import Figure
from benchmarks.grids.again import Question, ask_again
from benchmarks.grids.beside import beside_system
from tests.sources.diracx_peer import DiracxPeer
from tests.sources.front import Front

#: Jobs of one run, and of a quick one.
JOBS, QUICK_JOBS = 200, 50
#: Jobs that a user may submit in a call.
_AT_ONCE = 20
_ECHO = 'Executable = "/bin/echo"; Arguments = "hello %j"; StdOutput = "std.out"; OutputSandbox = {"std.out"};'
_numbers = count(1)


@dataclass(frozen=True)
class Grid:
    """A DiracX, and how long its tokens last, seconds."""

    peer: DiracxPeer
    token_s: float


@contextmanager
def grid(directory: Path) -> Iterator[Grid]:
    """Have a server for as long as the block lasts; it is gone afterwards, also when we are killed."""
    say("starting DiracX …")
    with tempfile.TemporaryDirectory(dir=directory) as place:
        peer = DiracxPeer(Path(place))
        try:
            _make_known(peer)
            yield Grid(peer, float(peer.login("operator", "operators")["expires_in"]))
        finally:
            peer.close()


def _make_known(peer: DiracxPeer) -> None:
    """Announce a first sandbox of the operator: of several at once all but one are answered with 500, once for good."""
    facts = {"checksum_algorithm": "sha256", "checksum": "0" * 64, "size": 1, "format": "tar.bz2"}
    peer.ask("operator", "operators", "POST", "/api/jobs/sandbox", json=facts)


def settings(one: Grid, place: Path, url: str) -> dict[str, Any]:
    """Give a source's settings for a server, or for a front of it; its credentials lie in a directory."""
    groups = {"operator": "operators", "pilot": "pilots"}
    files = {f"{user}_credential": str(one.peer.credential(place / user, user, groups[user])) for user in groups}
    return {"url": url, **files}


def run(data: Path, one: Grid, *, runs: int, quick: bool) -> list[Figure]:
    """Measure jobs per second from the first question to the grid until the last job is Done there."""
    jobs = QUICK_JOBS if quick else JOBS
    asked = _write_down(data, one, jobs)
    contestants = {
        "ours": partial(_jobs_per_second, data, one, jobs, one.peer.url),
        "bound": lambda: jobs / ask_again(one.peer, asked, submit(one, jobs)),
    }
    reached = alternate(contestants, runs, "jobs/s")
    return [
        Figure(
            name="real DiracX, beside its bound", unit="jobs/s", ours=reached["ours"], peer=reached["bound"], goal=0.8
        ),
        Figure(name="calls of a job of DiracX", unit="calls", ours=(len(asked) / jobs,)),
    ]


def submit(one: Grid, jobs: int) -> list[int]:
    """Have so many jobs wait at the grid."""
    return [
        job for start in range(0, jobs, _AT_ONCE) for job in one.peer.submit(*[_ECHO] * min(_AT_ONCE, jobs - start))
    ]


def _write_down(data: Path, one: Grid, jobs: int) -> list[Question]:
    """Do a run through a front, and give what it has asked; jobs are named by their place among the run's."""
    asked: list[Question] = []
    front = Front(one.peer.url)
    front.heard = lambda method, target, body: asked.append(Question(method, target, body))
    try:
        first = min(_run(data, one, jobs, front.url)[1])
    finally:
        front.close()
    kinds = {f"{name}: {number}" for name, number in front.asked.items() if "/sandbox/output" not in name}
    say(f"{len(asked) / jobs:.2f} calls a job; {', '.join(sorted(kinds))}")
    return [question.numbered(first) for question in asked]


def _jobs_per_second(data: Path, one: Grid, jobs: int, url: str) -> float:
    return jobs / _run(data, one, jobs, url)[0]


def _run(data: Path, one: Grid, jobs: int, url: str) -> tuple[float, list[int]]:
    """Let an adapter take jobs until all are Done; gives how long it took, seconds, and their numbers."""
    numbers = submit(one, jobs)
    with tempfile.TemporaryDirectory(dir=data.parent) as place:
        table = {"kind": "dirac", **settings(one, Path(place), url)}
        with beside_system(data, f"dirac{next(_numbers)}", table) as source:
            began = source.wait_begun()
            took_s = source.wait_told(jobs) - began
    rows = one.peer.rows(*numbers)
    if others := {job: row["Status"] for job, row in rows.items() if row["Status"] != "Done"}:
        raise RuntimeError(f"told, and not Done at the grid: {json.dumps(others)[:500]}")
    return took_s, numbers
