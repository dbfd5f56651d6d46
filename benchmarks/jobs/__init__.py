"""Jobs: the whole system with its durable ledger beside Celery with late acks and a durable SQLite result backend.

Both run ``/bin/true`` on the system's own broker, two at a time: two VMs of the ``process`` driver with a slot each,
and two Celery workers. Then how soon a single job starts on an idle VM.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from benchmarks.alternation import alternate, say
from benchmarks.arena import Arena, measure, serving
from benchmarks.figures import Figure, percentile
from benchmarks.jobs.ours import jobs_per_second, start_delays_ms, system
from broker.address import write_address
from broker.node import read_node_address

#: Jobs of one run, and of a quick one.
JOBS, QUICK_JOBS = 2000, 200
#: Single submissions for the latency.
SINGLES, QUICK_SINGLES = 120, 20


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure jobs per second from the first submission until the last result is durable, and the time to start."""
    jobs = QUICK_JOBS if quick else JOBS
    with system(arena.directory / "system") as data:
        credential = peer_credential(data)
        delays = start_delays_ms(data, QUICK_SINGLES if quick else SINGLES)
        contestants = {
            "ours": partial(jobs_per_second, data, jobs),
            "celery": partial(_celery, arena, credential, jobs),
        }
        reached = alternate(contestants, runs, "jobs/s")
    say(f"delays: fastest {min(delays):.1f} ms, slowest {max(delays):.1f} ms")
    return [
        Figure(name="jobs, beside Celery", unit="jobs/s", ours=reached["ours"], peer=reached["celery"], goal=3.0),
        Figure(name="submit to start, median", unit="ms", ours=(percentile(delays, 0.5),), goal=20.0),
        Figure(name="submit to start, p99", unit="ms", ours=(percentile(delays, 0.99),), goal=100.0),
    ]


def peer_credential(data: Path) -> Path:
    """Write the credential of a user with every right on a system's broker, for peers; give the file."""
    node = read_node_address(data / "node")
    path = data.parent / "peer-of-system.json"
    user, password = node.admin_user, node.admin_password
    write_address(path, node.login(user, password))
    return path


def _celery(arena: Arena, credential: Path, jobs: int) -> float:
    role = [sys.executable, "-m", "benchmarks.jobs.celery_peer"]
    log, database = arena.directory / "jobs-celery.log", arena.directory / "results.db"
    with serving([*role, "serve", str(credential), str(database), "-"], log):
        return measure([*role, "submit", str(credential), str(database), str(jobs)], log)[0]
