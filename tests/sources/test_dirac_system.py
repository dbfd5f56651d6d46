"""Jobs of a real DiracX through a whole system with a guest in QEMU: run there, and told to the grid."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources.diracx_peer import DiracxPeer, diracx_fixture
from tests.system.running import System, running, until
from volcloud import Client
from volcloud.centre.guest_image import cache_directory
from volcloud.demo import material
from volcloud.demo.place import example

__all__ = ["diracx_fixture"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(400)]

SITE = "CLOUD.Volunteer.org"
VM = "worker-1"
#: What a kill may take from the user's word to the guest, seconds; the guest looks and the adapter asks each some.
KILL_S = 10.0


@pytest.fixture(scope="module")
def grid(diracx: DiracxPeer) -> DiracxPeer:
    return diracx


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
    with running("--hypervisor", "qemu", "--vms", "1", "--set", f"sources={{biomed = {{{written}}}}}") as up:
        yield up


async def test_the_physics_example_runs_in_a_vm_and_its_sandbox_comes_down_with_diracs_own_client(
    grid: DiracxPeer, system: System, tmp_path: Path
) -> None:
    wheel = await material.provide_wheel(cache_directory() / "wheels")
    generate = (example() / "generate.py").read_bytes()
    sandbox, _ = grid.upload({"generate.py": generate, wheel.name: wheel.read_bytes()}, ending="tar.zst")
    [job] = grid.submit(
        f'Executable = "python3"; Arguments = "generate.py --seed 1 --events 1000"; InputSandbox = {{"{sandbox}"}};'
        ' StdOutput = "std.out"; OutputSandbox = {"std.out", "result.json"};'
    )

    until(lambda: grid.status(job) in ("Done", "Failed"), f"job {job} has ended", 300)

    row = grid.rows(job)[job]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    grid.download_output(job, theirs)
    with system.client() as cloud:
        ref = cloud.jobs.list(owner="adapter-source-biomed")[0].job
        cloud.jobs.fetch(ref, ours)
        assert cloud.sources.list()[0].trouble == ""
    result = json.loads((theirs / "result.json").read_bytes())
    assert (row["Status"], row["Site"]) == ("Done", SITE)
    assert ref == f"adapter-source-biomed/{job}-1.1"
    assert digest(theirs / "result.json") == digest(ours / "result.json")
    assert digest(theirs / "std.out") == digest(ours / "stdout")
    assert (result["events"], result["sum"] / 1000) == (1000, pytest.approx(material.KNOWN_MEAN, abs=1e-9))


def test_a_job_that_its_user_kills_stops_in_its_guest_and_never_runs_again(grid: DiracxPeer, system: System) -> None:
    [job] = grid.submit('Executable = "/bin/sleep"; Arguments = "31415";')
    with system.client() as cloud:
        until(lambda: sleeps(cloud), "it runs", 60)
        until(lambda: grid.status(job) == "Running", "the grid knows that it runs", 60)

        began = time.monotonic()
        grid.kill_job(job)
        until(lambda: not sleeps(cloud), "its process is gone", 60)
        took_s = time.monotonic() - began

        print(f"stopped {took_s:.1f} s after its user's word (goal: {KILL_S:g} s)")
        until(lambda: cloud.jobs.show(f"adapter-source-biomed/{job}-1.1").job.state == "cancelled", "it is cancelled")
    assert grid.status(job) == "Killed"


def sleeps(cloud: Client) -> bool:
    """Whether the payload is among the processes of the VM. The pattern does not find itself."""
    found = cloud.execs.run(VM, ["sh", "-c", "grep -qs 3141[5] /proc/[0-9]*/cmdline"])
    return found.exit_status == 0


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
