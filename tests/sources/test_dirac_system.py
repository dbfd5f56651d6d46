"""A job of a real DiracX through a whole system: run by a guest, its sandbox and its status back at the grid."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources.diracx_peer import DiracxPeer, demand_diracx
from tests.system.running import System, running, until

SITE = "CLOUD.Volunteer.org"
#: What a kill may take from the user's word to the guest, seconds; the guest looks and the adapter asks each some.
KILL_S = 10.0


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiracxPeer]:
    demand_diracx()
    peer = DiracxPeer(tmp_path_factory.mktemp("diracx"))
    yield peer
    peer.close()


@pytest.fixture(scope="module")
def system(grid: DiracxPeer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    place = tmp_path_factory.mktemp("credentials")
    table = {
        "kind": "dirac",
        "url": grid.url,
        "site": SITE,
        "operator_credential": str(grid.credential(place / "operator.json", "operator", "operators")),
        "pilot_credential": str(grid.credential(place / "pilot.json", "pilot", "pilots")),
    }
    written = ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    with running("--hypervisor", "process", "--set", f"sources={{biomed = {{{written}}}}}") as up:
        yield up


def test_a_job_is_matched_runs_in_a_guest_and_its_sandbox_and_status_are_at_the_grid(
    grid: DiracxPeer, system: System
) -> None:
    script = b"#!/bin/sh\nseq 1 $1 | tee numbers.txt\n"
    sandbox, _ = grid.upload({"count.sh": script})
    [job] = grid.submit(
        f'Executable = "count.sh"; Arguments = "1000"; InputSandbox = {{"{sandbox}"}};'
        ' StdOutput = "std.out"; OutputSandbox = {"std.out", "numbers.txt"};'
    )

    until(lambda: grid.status(job) in ("Done", "Failed"), f"job {job} has ended", 90)

    row = grid.rows(job)[job]
    expected = "".join(f"{n}\n" for n in range(1, 1001)).encode()
    outputs = grid.output_of(job)
    assert (row["Status"], row["Site"]) == ("Done", SITE)
    assert {name: hashlib.sha256(outputs[name]).hexdigest() for name in ("std.out", "numbers.txt")} == dict.fromkeys(
        ("std.out", "numbers.txt"), hashlib.sha256(expected).hexdigest()
    )
    with system.client() as cloud:
        (ours,) = cloud.jobs.list(owner="adapter-source-biomed")
        assert ours.job == f"adapter-source-biomed/{job}-1.1"
        assert cloud.sources.list()[0].trouble == ""


def test_a_job_that_its_user_kills_stops_in_its_guest_and_never_runs_again(grid: DiracxPeer, system: System) -> None:
    [job] = grid.submit('Executable = "/bin/sleep"; Arguments = "31415";')
    until(lambda: "sleep 31415" in processes(), "it runs", 60)
    until(lambda: grid.status(job) == "Running", "the grid knows that it runs", 60)

    began = time.monotonic()
    grid.kill_job(job)
    until(lambda: "sleep 31415" not in processes(), "its process is gone", 60)
    took_s = time.monotonic() - began

    print(f"stopped {took_s:.1f} s after its user's word (goal: {KILL_S:g} s)")
    with system.client() as cloud:
        until(lambda: cloud.jobs.show(f"adapter-source-biomed/{job}-1.1").job.state == "cancelled", "it is cancelled")
    assert grid.status(job) == "Killed"


def processes() -> str:
    found = []
    for path in Path("/proc").iterdir():
        try:
            found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
            continue
    return "\n".join(found)
