"""Source adapters of a running system, with a directory as their grid: whoever is killed, each job is done once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.running import System, commands, open_to_all, running, until
from volcloud.errors import CommandFailed, NoSuchSource

#: After how long a job is given again that an adapter took which was killed before it had written it down, seconds.
SILENT_S = 20


class Spool:
    """The directory, as whoever feeds it sees it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, name: str, **job: object) -> None:
        """Submit a job."""
        self.write(f"new/{name}.json", json.dumps(job).encode())

    def write(self, name: str, content: bytes) -> None:
        """Have a file appear whole."""
        path = self.directory / name
        part = self.directory / f".{path.name}"
        part.write_bytes(content)
        part.rename(path)

    def done(self) -> int:
        """Count the final statuses."""
        return len(list((self.directory / "done").glob("job-*.json")))

    def left(self) -> int:
        """Count the jobs that have none."""
        return len([*(self.directory / "new").glob("*.json"), *(self.directory / "taken").glob("*.json")])

    def final(self, name: str) -> dict[str, object]:
        """Wait for a job's final status."""
        path = self.directory / "done" / f"{name}.json"
        until(path.exists, f"{name} has ended", SILENT_S + 60)
        told: dict[str, object] = json.loads(path.read_bytes())
        return told


@pytest.fixture(scope="module")
def spool() -> Iterator[Spool]:
    """A directory that jobs may write into as well."""
    with open_to_all() as directory:
        yield Spool(directory / "spool")


@pytest.fixture(scope="module")
def system(spool: Spool) -> Iterator[System]:
    where = json.dumps(str(spool.directory))
    sources = f'sources={{lyon = {{kind = "spool", directory = {where}, silent_s = {SILENT_S}}}}}'
    with running("--hypervisor", "process", "--set", sources) as up:
        yield up


def test_a_job_file_is_done_and_what_it_left_is_there(system: System, spool: Spool) -> None:
    spool.write("files/double.sh", b"#!/bin/sh\necho $(( $1 * 2 )) | tee result.txt\n")
    spool.put("double", executable="double.sh", arguments=["21"], inputs=["double.sh"], outputs=["result.txt"])

    told = spool.final("double")

    assert (told["state"], told["exit_status"], told["sandbox"]) == ("done", 0, "out/double")
    assert (spool.directory / "out/double/result.txt").read_bytes() == b"42\n"
    assert (spool.directory / "out/double/stdout").read_bytes() == b"42\n"
    assert list((spool.directory / "taken").iterdir()) == []


def test_what_fails_or_makes_no_sense_is_told_with_its_reason(spool: Spool) -> None:
    spool.put("fails", executable="/bin/sh", arguments=["-c", "exit 3"])
    spool.write("new/nonsense.json", b"{executable")
    spool.put("unknown", executable="/bin/true", inputs=["gone.txt"])
    spool.put("leads-out", executable="/bin/true", inputs=["../../etc/passwd"])

    told = {name: spool.final(name) for name in ("fails", "nonsense", "unknown", "leads-out")}

    assert (told["fails"]["state"], told["fails"]["exit_status"]) == ("held", 3)
    assert "malformed" in str(told["nonsense"]["cause"])
    assert "gone.txt" in str(told["unknown"]["cause"])
    assert "'../../etc/passwd' must be a path below files/" in str(told["leads-out"]["cause"])


def test_a_kill_stops_a_job_that_runs(system: System, spool: Spool) -> None:
    spool.put("endless", executable="/bin/sleep", arguments=["10000"])
    status = spool.directory / "taken/endless.status"
    until(lambda: status.exists() and json.loads(status.read_bytes())["state"] == "running", "it runs")

    spool.write("taken/endless.kill", b"")

    assert spool.final("endless")["state"] == "cancelled"
    until(lambda: "sleep 10000" not in commands(), "its process is gone")


@pytest.mark.timeout(900)
def test_an_adapter_that_is_killed_again_and_again_does_each_job_once(system: System, spool: Spool) -> None:
    ran = spool.directory.parent / "ran"
    ran.mkdir()
    ran.chmod(0o1777)
    for number in range(24):
        mark = f"mktemp {ran}/{number}-XXXXXX"
        spool.put(f"job-{number}", executable="/bin/sh", arguments=["-c", f"{mark}; sleep 1; echo {number}"])
    for _ in range(6):
        system.kill("source_adapter-lyon")
        before = spool.done()
        # One that was taken and not yet written down when its adapter was killed is given again after a while.
        until(lambda before=before: spool.done() > before or not spool.left(), "one more has ended", SILENT_S + 60)

    for number in range(24):
        assert spool.final(f"job-{number}")["state"] == "done"
        assert (spool.directory / f"out/job-{number}/stdout").read_text().endswith(f"\n{number}\n")
    ran_by = Counter(path.name.partition("-")[0] for path in ran.iterdir())
    with system.client() as cloud:
        attempts = {
            row.job.partition("/job-")[2].partition("-")[0]: len(cloud.jobs.show(row.job).attempts)
            for row in cloud.jobs.list(owner="adapter-source-lyon", limit=100)
            if "/job-" in row.job
        }
    # On a machine that is full a VM may be silent for its lease; then the ledger says that its job ran again.
    assert attempts.keys() == {str(number) for number in range(24)}
    assert all(1 <= ran_by[number] <= count for number, count in attempts.items())


def test_people_see_how_a_source_is(system: System) -> None:
    with system.client() as cloud:
        (row,) = cloud.sources.list()
        with pytest.raises(NoSuchSource, match="known: lyon"):
            cloud.sources.retry("oslo")
        again = cloud.sources.retry("lyon")
        with pytest.raises(NoSuchSource, match="known: lyon"):
            cloud.sources.delete("oslo")
        with pytest.raises(CommandFailed, match="source = 'lyon': its adapter was heard of") as refused:
            cloud.sources.delete("lyon", give_up=True)
    assert refused.value.next_step.startswith("take lyon out of `sources`, stop its adapter")

    assert (row.source, row.kind, row.trouble, again.source) == ("lyon", "spool", "", "lyon")
    assert row.given_ms > 0
