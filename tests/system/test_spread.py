"""Slots take short jobs ahead, and yet a few long ones spread over idle VMs and hold nobody up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas.ledger import JobRow, JobState
from tests.system.running import open_to_all, running, until
from volcloud import Client

SHORT = 300
#: Longer than a slot lets jobs wait behind another.
LONG_S = 3


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with running("--hypervisor", "process", "--vms", "2", "--cpus", "1") as system, system.client() as one:
        yield one


def rows(client: Client, name: str, script: str, jobs: int) -> list[JobRow]:
    """Run an array of a shell script, whose ``$1`` is the index, and give its jobs in order."""
    submit(client, name, script, jobs)
    return ended(client, name)


def submit(client: Client, name: str, script: str, jobs: int) -> None:
    client.jobs.submit(
        {"id": name, "executable": "/bin/sh", "arguments": ["-c", script, "sh", "{index}"], "array": jobs}
    )


def ended(client: Client, name: str) -> list[JobRow]:
    found = client.jobs.wait(name, timeout_s=100)
    assert {row.state for row in found} == {JobState.DONE}
    assert {(row.failures, row.losses) for row in found} == {(0, 0)}
    return sorted(found, key=lambda row: row.number)


def test_after_many_short_jobs_long_ones_begin_at_once_on_a_vm_each(client: Client) -> None:
    rows(client, "before", "true", SHORT)

    long = rows(client, "long", f"sleep {LONG_S}", 2)

    assert len({row.vm for row in long}) == 2
    assert [row.attempt for row in long] == [1, 1]
    began = [row.started_ms - row.submitted_ms for row in long]
    assert max(began) < LONG_S * 1000


def test_jobs_behind_a_long_one_are_given_back_and_run_elsewhere(client: Client) -> None:
    rows(client, "warm", "true", SHORT)
    with open_to_all() as place:
        slow_ends = place / "all others have ended"
        until_then = f"[ $1 -ne {SHORT // 2} ] || until [ -e '{slow_ends}' ]; do sleep 0.1; done"
        submit(client, "mixed", until_then, SHORT)

        until(
            lambda: client.jobs.list(job="mixed", limit=1).counts.get(JobState.DONE, 0) == SHORT - 1, "all others end"
        )
        slow_ends.touch()
        mixed = ended(client, "mixed")

    (slow,) = [row for row in mixed if row.job.endswith(f".{SHORT // 2}")]
    assert sum(row.attempt > 1 for row in mixed) > 0
    assert all(row.ended_ms < slow.ended_ms for row in mixed if row is not slow)
