"""Sites with AMQP clients that are none of ours: the examples in other languages, against a running system."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.ledger import JobState
from tests.system.running import System, running, until
from volcloud import Client

pytestmark = pytest.mark.peers

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIENTS = {
    "ruby-bunny": ("ruby", str(EXAMPLES / "feed_bunny.rb")),
    "php-amqplib": ("php", str(EXAMPLES / "feed_amqplib.php")),
}


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "1") as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        yield one


def feed(system: System, name: str, *job: str) -> subprocess.CompletedProcess[str]:
    """Add the site as an operator does, and let its program submit a job."""
    login = system.directory / f"{name}.json"
    add = (
        sys.executable,
        "-m",
        "volcloud.main",
        "site",
        "add",
        name,
        "-o",
        str(login),
        "--data",
        str(system.directory),
    )
    subprocess.run(add, check=True, timeout=60)
    return subprocess.run(
        [*CLIENTS[name], *job], input=login.read_text(), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", CLIENTS)
def test_a_foreign_client_feeds_a_job_and_hears_the_verdict(
    system: System, client: Client, name: str, record_property
) -> None:
    said = feed(system, name, "first", "/bin/echo", "bonjour")

    assert (said.stdout, said.stderr, said.returncode) == ("accepted first\n", "", 0)
    job = f"site-{name}/first.1"
    until(lambda: client.jobs.show(job).job.state == JobState.DONE, "the job is done")
    assert client.jobs.logs(job)["stdout"] == b"bonjour\n"
    record_property("verdict", said.stdout.strip())


@pytest.mark.parametrize("name", CLIENTS)
def test_a_foreign_client_hears_why_its_job_was_refused(system: System, name: str) -> None:
    said = feed(system, name, "no such id!", "/bin/true")

    assert said.returncode == 1
    assert "id" in said.stderr
    assert said.stdout == ""
