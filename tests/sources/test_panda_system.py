"""A job of a server that plays PanDA through a whole system: run by a guest, its log and its status back there."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator

import pytest

from tests.sources.panda_jobs import SCOPE, file, job
from tests.sources.panda_played import system_settings, unpacked
from tests.sources.panda_standin import PandaStandIn
from tests.sources.test_dirac_system import KILL_S
from tests.system.running import System, commands, running, until

NUMBERS = "".join(f"{n}\n" for n in range(1, 1001)).encode()


@pytest.fixture(scope="module")
def grid() -> Iterator[PandaStandIn]:
    one = PandaStandIn()
    yield one
    one.close()


@pytest.fixture(scope="module")
def system(grid: PandaStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = system_settings(grid, tmp_path_factory.mktemp("panda"), PANDA_UNDEFINED2=f"{grid.url}/storage")
    with running("--hypervisor", "process", "--set", f"sources={{atlas = {settings}}}") as up:
        yield up


def test_a_job_is_acquired_runs_in_a_guest_and_its_log_and_status_are_at_the_grid(
    grid: PandaStandIn, system: System
) -> None:
    grid.store(SCOPE, "limit.txt", b"1000")
    grid.files["/trf/count.sh"] = b'#!/bin/sh\nseq 1 "$(cat $1)" | tee numbers.txt; echo "$PandaID" > name\n'
    known = {"fsize": 4, "checksum": f"ad:{zlib.adler32(b'1000'):08x}"}
    number = grid.submit(
        job(f"{grid.url}/trf/count.sh", "limit.txt"),
        [file("input", "limit.txt", **known), file("output", "name"), file("log", "log.tgz")],
    )

    until(lambda: grid.jobs[number].finals, f"job {number} has ended", 90)
    grid.tend()

    [final] = grid.jobs[number].finals
    report = json.loads(final["job_output_report"])
    log = grid.cached(report["log.tgz"]["surl"].rpartition("/")[2])
    assert grid.status(number) == ("finished", 0)
    assert (final["trans_exit_code"], report["log.tgz"]["fsize"]) == (0, len(log))
    assert report["log.tgz"]["adler32"] == f"{zlib.adler32(log):08x}"
    assert unpacked(log) == {"stdout": NUMBERS, "stderr": b"", "name": f"{number}\n".encode()}
    assert grid.jobs[number].told["start_time"] <= grid.jobs[number].told["end_time"]
    with system.client() as cloud:
        (ours,) = cloud.jobs.list(owner="adapter-source-atlas")
        assert ours.job == f"adapter-source-atlas/{number}-1.1"
        assert cloud.sources.list()[0].trouble == ""


def test_a_job_that_its_user_kills_stops_in_its_guest_and_never_runs_again(grid: PandaStandIn, system: System) -> None:
    number = grid.submit(job("/bin/sleep", "27182"))
    until(lambda: "sleep 27182" in commands(), "it runs", 60)
    until(lambda: grid.status(number)[0] == "running", "the grid knows that it runs", 60)

    grid.kill(number)
    until(lambda: "sleep 27182" not in commands(), "its process is gone", KILL_S)

    with system.client() as cloud:
        name = f"adapter-source-atlas/{number}-1.1"
        until(lambda: cloud.jobs.show(name).job.state == "cancelled", "it is cancelled")
    until(lambda: grid.jobs[number].finals, "its end is told")
    [final] = grid.jobs[number].finals
    assert (final["job_status"], final["pilot_error_code"]) == ("failed", 1144)
    later = grid.submit(job("/bin/true"))
    until(lambda: grid.jobs[later].finals, "a later job has ended", 60)
    assert "sleep 27182" not in commands()


def test_a_job_that_fails_says_by_its_codes_how(grid: PandaStandIn, system: System) -> None:
    number = grid.submit(job("/bin/sh", "-c 'exit 7'"))
    until(lambda: grid.jobs[number].finals, f"job {number} has ended", 60)

    [final] = grid.jobs[number].finals
    codes = {key: final[key] for key in ("job_status", "trans_exit_code", "pilot_error_code", "exe_error_code")}
    assert codes == {"job_status": "failed", "trans_exit_code": 7, "pilot_error_code": 1305, "exe_error_code": 7}
