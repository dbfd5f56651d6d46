"""Two job adapters and two storage adapters: they share the load, and one of each killed midway loses nothing."""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.node import LOOPBACK
from schemas.ledger import JobState
from tests.system.running import System, running, until
from volcloud import Client
from volcloud.centre.plan import Names

JOBS = 100
#: What each instance must have handled of them.
FAIR_SHARE = 20
JOB_ADAPTERS = ("job_adapter-1", "job_adapter-2")
STORAGE_ADAPTERS = ("storage_adapter-1", "storage_adapter-2")
#: Writes more than rides in a completion, so that each job takes a transfer too.
SCRIPT = "sleep {seconds}; echo {index} > out; seq -f %08.0f 1 12000 >> out"


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    options = ("--vms", "2", "--cpus", "2", "--job-adapters", "2", "--storage-adapters", "2")
    with running("--hypervisor", "process", *options) as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        yield one


def submit(client: Client, prefix: str, *, seconds: float, first: int = 1, last: int = JOBS) -> list[str]:
    """Submit the jobs one by one, as sites do; an array is one message, which one adapter takes."""
    for number in range(first, last + 1):
        script = ["-c", SCRIPT.format(seconds=seconds, index=number)]
        job = {"id": f"{prefix}-{number}", "executable": "/bin/sh", "arguments": script, "outputs": [{"name": "out"}]}
        client.jobs.submit(job)
    return [f"{prefix}-{number}" for number in range(first, last + 1)]


def output_of(number: int) -> bytes:
    return b"%d\n" % number + b"".join(b"%08d\n" % line for line in range(1, 12_001))


def metric(system: System, process: str, name: str, **labels: str) -> float:
    """Read a number from an adapter's metrics; it has only its own."""
    names = msgspec.json.decode((system.layout.etc / "names.json").read_bytes(), type=Names)
    link = HTTPConnection(LOOPBACK, names.metrics[process], timeout=10)
    link.request("GET", "/metrics")
    text = link.getresponse().read().decode()
    link.close()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def done_by_state(client: Client, prefix: str) -> Counter[str]:
    """Count the jobs of one test by state, each with exactly one done attempt."""
    rows = [row for row in client.jobs.list(limit=1000).jobs if row.job.partition("/")[2].startswith(f"{prefix}-")]
    return Counter(row.state for row in rows)


def assert_outputs(client: Client, names: list[str]) -> None:
    for number, name in enumerate(names, start=1):
        attempts = client.jobs.show(f"{name}.1").attempts
        assert [a.state for a in attempts].count("done") == 1, attempts
        (entry,) = [entry for entry in attempts[-1].outputs if entry.name == "out"]
        assert entry.sha256 == hashlib.sha256(output_of(number)).hexdigest()


def test_each_of_two_adapters_handles_its_share_of_a_hundred_jobs(
    system: System, client: Client, tmp_path: Path
) -> None:
    names = submit(client, "share", seconds=0.02)

    until(lambda: done_by_state(client, "share") == {JobState.DONE: JOBS}, "all are done", 60)

    taken = {one: metric(system, one, "vc_jobs_submitted_total") for one in JOB_ADAPTERS}
    ended = {one: metric(system, one, "vc_jobs_total", outcome="done") for one in STORAGE_ADAPTERS}
    moved = {one: metric(system, one, "vc_transfer_bytes_total", direction="in") for one in STORAGE_ADAPTERS}
    assigned = {one: metric(system, one, "vc_jobs_assigned_total") for one in (*JOB_ADAPTERS, *STORAGE_ADAPTERS)}
    print(f"submissions {taken}\ndone {ended}\nbytes in {moved}\nassigned {assigned}")
    assert sum(taken.values()) == sum(ended.values()) == sum(assigned.values()) == JOBS
    assert min(taken.values()) >= FAIR_SHARE, taken
    assert min(ended.values()) >= FAIR_SHARE, ended
    assert min(moved.values()) >= FAIR_SHARE * len(output_of(1)), moved
    assert_outputs(client, names)
    client.jobs.fetch("share-17.1", tmp_path)
    assert (tmp_path / "out").read_bytes() == output_of(17)


def test_one_adapter_of_each_kind_killed_midway_loses_no_job(system: System, client: Client, tmp_path: Path) -> None:
    """However slow submitting is: of the last jobs some have just come at the kill, and some come after it."""
    names = submit(client, "killed", seconds=0.1, last=50)
    until(lambda: done_by_state(client, "killed")[JobState.DONE] >= 10, "some are done")
    survivors = {one: system.pid(one) for one in (JOB_ADAPTERS[1], STORAGE_ADAPTERS[1])}
    names += submit(client, "killed", seconds=0.1, first=51, last=75)

    for victim in (JOB_ADAPTERS[0], STORAGE_ADAPTERS[0]):
        os.kill(system.pid(victim), signal.SIGKILL)
    names += submit(client, "killed", seconds=0.1, first=76)
    until(lambda: done_by_state(client, "killed") == {JobState.DONE: JOBS}, "all are done", 90)

    assert {one: system.pid(one) for one in survivors} == survivors
    assert_outputs(client, names)
    client.jobs.fetch("killed-99.1", tmp_path)
    assert (tmp_path / "out").read_bytes() == output_of(99)
