"""Our contestant: a real system of this machine, fed through the public client."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from uuid import uuid4

from benchmarks.alternation import say
from schemas.ledger import JobState
from volcloud import Client
from volcloud.centre.detach import start_detached
from volcloud.centre.plan import Plan

#: How often the ledger is asked whether all jobs are done, seconds.
_POLL_S = 0.05
#: A run of jobs that takes longer has failed, seconds.
_PATIENCE_S = 300.0
#: Pause between single submissions, seconds: the VM is idle again, its request is in the ledger.
_PAUSE_S = 0.05


@contextmanager
def system(data: Path, *, hypervisor: Literal["qemu", "process"] = "process", **sizes: int) -> Iterator[Path]:
    """Hold a system up, of two VMs with one slot each unless other sizes are said, and give its data directory."""
    data.mkdir()
    pid = start_detached(Plan(data=str(data), hypervisor=hypervisor, **{"vms": 2, "cpus": 1} | sizes), say)
    try:
        yield data
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def jobs_per_second(data: Path, jobs: int) -> float:
    """Submit an array in one message and wait until the ledger has every job done; a tenth goes before, unmeasured."""
    with Client.connect(data) as client:
        _run_array(client, jobs // 10)
        began = time.perf_counter()
        _run_array(client, jobs)
        return jobs / (time.perf_counter() - began)


def _run_array(client: Client, jobs: int) -> None:
    name = f"true-{uuid4().hex[:12]}"
    client.jobs.submit({"id": name, "executable": "/bin/true", "array": jobs})
    _wait_done(client, name, jobs)


def start_delays_ms(data: Path, submissions: int) -> list[float]:
    """Submit single jobs to an idle system; each prints when it began to run, by the same clock as ours."""
    with Client.connect(data) as client:
        return [_delay_ms(client, f"start-{uuid4().hex[:12]}") for _ in range(submissions)]


def _delay_ms(client: Client, name: str) -> float:
    time.sleep(_PAUSE_S)
    submitted_ns = time.time_ns()
    client.jobs.submit({"id": name, "executable": "/bin/date", "arguments": ["+%s%N"]})
    _wait_done(client, name, 1)
    return (int(client.jobs.logs(f"{name}.1")["stdout"]) - submitted_ns) / 1e6


def _wait_done(client: Client, name: str, jobs: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        counts = client.jobs.list(job=name, limit=1).counts
        if counts.get(JobState.DONE, 0) == jobs:
            return
        ended = {state for state in (JobState.HELD, JobState.CANCELLED) if counts.get(state)}
        if ended or time.monotonic() > deadline:
            raise RuntimeError(f"jobs {name}: {counts}")
        time.sleep(_POLL_S)
