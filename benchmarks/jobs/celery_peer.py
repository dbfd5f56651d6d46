"""Celery: ``serve CREDENTIAL DATABASE -`` is a worker of two, ``submit CREDENTIAL DATABASE JOBS`` a client.

A task runs ``/bin/true``; it is acknowledged late, and its result is in SQLite with synchronous=FULL. The client prints
tasks per second from the first submission until the last result is in the database.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_ready
from sqlalchemy import event
from sqlalchemy.engine import Engine

from benchmarks.bare import url_of

_POLL_S = 0.05
_PATIENCE_S = 300.0

app = Celery("bench")
app.conf.update(
    task_default_queue="bench.jobs.celery",
    task_default_queue_type="quorum",
    task_default_exchange_type="topic",
    task_acks_late=True,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    worker_redirect_stdouts=False,
)


@event.listens_for(Engine, "connect")
def _make_durable(connection: Any, _: object) -> None:
    connection.execute("PRAGMA synchronous=FULL")


@app.task
def run_true() -> int:
    """Run the payload and give its exit status."""
    return subprocess.run(["/bin/true"], check=False).returncode


@worker_ready.connect
def _tell(**_: object) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def submit(database: Path, jobs: int) -> float:
    """Submit, wait, and give the rate; a tenth goes before, unmeasured."""
    _submit(database, jobs // 10)
    began = time.perf_counter()
    _submit(database, jobs)
    return jobs / (time.perf_counter() - began)


def _submit(database: Path, jobs: int) -> None:
    before = _done(database)
    began = time.perf_counter()
    for _ in range(jobs):
        run_true.delay()
    while _done(database) < before + jobs:
        if time.perf_counter() - began > _PATIENCE_S:
            raise RuntimeError(f"{_done(database) - before} of {jobs} tasks done")
        time.sleep(_POLL_S)


def _done(database: Path) -> int:
    if not database.exists():
        return 0
    connection = sqlite3.connect(database, timeout=30)
    try:
        return int(connection.execute("SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # the worker makes the table with its first result
    finally:
        connection.close()


if __name__ == "__main__":
    role, file, results, argument = sys.argv[1:]
    app.conf.update(broker_url=url_of(Path(file)), result_backend=f"db+sqlite:///{results}")
    if role == "serve":
        options = ["--pool", "prefork", "--concurrency", "2", "--loglevel", "error"]
        app.worker_main(["worker", *options, "--without-gossip", "--without-mingle"])
    else:
        sys.stdout.write(f"{submit(Path(results), int(argument))}\n")
