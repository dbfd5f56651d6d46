"""A real PanDA server: the story that the stand-in is played too, and what was said, which must be the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.sources.contract import GridEnding, GridProgress
from adapters.sources.panda import make_panda
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import Cluster, cluster
from tests.peers.panda_peer import PandaPeer, demand_panda
from tests.sources.panda_jobs import file, job
from tests.sources.panda_played import settings_for, system_settings, unpacked
from tests.sources.panda_standin import PandaStandIn
from tests.sources.panda_story import OFFER, TRANSCRIPT, play
from tests.sources.test_dirac_system import KILL_S
from tests.system.running import commands, running, until

__all__ = ["cluster"]

pytestmark = pytest.mark.peers

HEAD = """\
# What was said between a source and panda-server 1.0.4 in the story of tests/sources/panda_story.py. Numbers of jobs
# are J1, J2 and so on, anew in each part; the keys of JSON are in order. Written by `make peers`; the server that plays
# PanDA in the other tests must say the same.
"""


@pytest.fixture(scope="module")
def grid(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PandaPeer]:
    demand_panda()
    peer = PandaPeer(tmp_path_factory.mktemp("panda"), cluster)
    yield peer
    peer.close()


def test_the_real_server_and_the_stand_in_say_the_same_in_the_same_story(
    grid: PandaPeer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "played").mkdir()
    standin = PandaStandIn()

    real = play(grid, tmp_path / "real")
    try:
        played = play(standin, tmp_path / "played")
    finally:
        standin.close()

    TRANSCRIPT.write_text(HEAD + real)
    record_property("exchanges", sum(line.startswith("<") for line in real.splitlines()))
    assert played.splitlines() == real.splitlines()


def test_jobs_of_a_real_server_run_in_guests_of_a_whole_system_and_a_kill_there_stops_one(
    grid: PandaPeer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with running("--hypervisor", "process", "--set", f"sources={{atlas = {system_settings(grid, tmp_path)}}}"):
        number = grid.submit(job("/bin/sh", "-c 'seq 1 1000 | tee numbers.txt'"), [file("log", "log.tgz")])
        until(lambda: settled(grid, number) == "finished", f"job {number} has ended", 90)
        [log] = (grid.directory / "cache").glob(f"volunteer-cloud.{number}-1.*")
        assert unpacked(log.read_bytes())["stdout"] == "".join(f"{n}\n" for n in range(1, 1001)).encode()

        sleeper = grid.submit(job("/bin/sleep", "16180"), [file("log", "log.tgz")])
        until(lambda: "sleep 16180" in commands(), "it runs", 60)
        until(lambda: grid.status(sleeper)[0] == "running", "the grid knows that it runs", 60)
        began = time.monotonic()
        grid.kill(sleeper)
        until(lambda: "sleep 16180" not in commands(), "its process is gone", KILL_S)
        record_property("stopped after s", f"{time.monotonic() - began:.1f}")
        until(lambda: settled(grid, sleeper) == "cancelled", "its end is told", 60)


def settled(grid: PandaPeer, number: int) -> str:
    """Have PanDA's daemon look at reports; gives how a job is then. The report comes a moment after the status."""
    grid.tend()
    return grid.status(number)[0]


def test_a_certificate_is_enough_for_the_real_server(grid: PandaPeer, tmp_path: Path) -> None:
    proxy = tmp_path / "proxy.pem"
    leaf = grid.authority.issue_cert("pilot@example.org", organization_name="Grid", organization_unit_name="Pilot")
    proxy.touch(0o600)
    proxy.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    number = grid.submit(job())
    ca_file = str(grid.directory / "ca.pem")
    source = make_panda(
        settings_for(grid, tmp_path, url=grid.certified_url, token="", certificate=str(proxy), ca_file=ca_file), "panda"
    )

    [given] = source.acquire([OFFER], 1)
    stops = source.beat([GridProgress(job=given.job, state=JobState.RUNNING)])
    reasons = source.finish([GridEnding(job=given.job, state=JobState.DONE, exit_status=0)])
    source.close()

    assert (given.job.id, list(stops), dict(reasons)) == (str(number), [], {})
    assert grid.status(number) == ("holding", 0)


def test_two_hundred_jobs_of_a_real_server_are_told_of_in_bulk(
    grid: PandaPeer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    jobs = [grid.submit(job()) for _ in range(200)]
    source = make_panda(settings_for(grid, tmp_path), "panda")
    began = time.monotonic()

    given = [one.job for one in source.acquire([OFFER._replace(slots=200)], 200)]
    acquired_s = time.monotonic() - began
    stops = source.beat([GridProgress(job=one, state=JobState.RUNNING) for one in given])
    told_s = time.monotonic() - began - acquired_s
    reasons = source.finish([GridEnding(job=one, state=JobState.DONE, exit_status=0) for one in given])
    finished_s = time.monotonic() - began - acquired_s - told_s
    source.close()

    assert sorted(int(one.id) for one in given) == jobs
    assert (list(stops), dict(reasons)) == ([], {})
    assert {grid.status(number)[0] for number in jobs} == {"holding"}
    for what, seconds in (("acquired", acquired_s), ("told", told_s), ("finished", finished_s)):
        record_property(f"{what} a second", round(200 / seconds))
