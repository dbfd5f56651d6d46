"""Celery's tasks: ``serve CREDENTIAL -`` is a solo worker, ``call CREDENTIAL CALLS`` a client; prints calls/s.

As Celery's documentation has it for RabbitMQ: results by ``rpc://``, quorum queues with confirmed publishing.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path

from celery import Celery
from celery.signals import worker_ready

from benchmarks.bare import url_of

AT_A_TIME = 50

app = Celery("bench", backend="rpc://")
app.conf.update(
    task_default_queue="bench.rpc.celery",
    task_default_queue_type="quorum",
    task_default_exchange_type="topic",
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    result_persistent=True,
    worker_prefetch_multiplier=64,
    worker_redirect_stdouts=False,
)


@app.task(acks_late=True)
def echo(text: str) -> str:
    """Answer."""
    return text


@worker_ready.connect
def _tell(**_: object) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def serve() -> None:
    """Work until terminated."""
    options = ["--pool", "solo", "--loglevel", "error"]
    app.worker_main(["worker", *options, "--without-gossip", "--without-mingle"])


def call(calls: int) -> float:
    """Call and give the rate, calls per second."""
    _call_many(calls // 10)
    began = time.perf_counter()
    _call_many(calls)
    return calls / (time.perf_counter() - began)


def _call_many(calls: int) -> None:
    pending = deque(echo.delay("x" * 200) for _ in range(AT_A_TIME))
    for _ in range(max(0, calls - AT_A_TIME)):
        pending.popleft().get(timeout=60)
        pending.append(echo.delay("x" * 200))
    while pending:
        pending.popleft().get(timeout=60)


if __name__ == "__main__":
    role, file, argument = sys.argv[1:]
    app.conf.broker_url = url_of(Path(file))
    if role == "serve":
        serve()
    else:
        sys.stdout.write(f"{call(int(argument))}\n")
