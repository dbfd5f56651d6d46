"""States here and at DIRAC, a job's history, the server's time: what is decided without a server."""

from __future__ import annotations

from configparser import ConfigParser
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import SourceRefused
from adapters.sources.contract import GridEnding, GridJob
from adapters.sources.dirac import make_dirac
from adapters.sources.dirac.client import DiracRow, LoggedStep
from adapters.sources.dirac.grid_clock import GridClock
from adapters.sources.dirac.jobs import attempt_of, why_not_ours
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.dirac.states import ENDED, STEPS, WHILE, told_of, way
from adapters.sources.plugins import SOURCES, make_source
from broker.errors import ConfigError
from schemas.ledger import SETTLED, JobState


def row(status: str, *steps: str, site: str = "here") -> DiracRow:
    history = [LoggedStep(*step.split("/")) for step in steps]
    return DiracRow(1, status, "minor", site=site, logging_info=history)


def test_every_state_has_one_at_dirac() -> None:
    assert set(WHILE) | set(ENDED) == set(JobState)
    assert set(ENDED) == SETTLED


def test_steps_lead_where_they_should_and_come_to_an_end() -> None:
    for target, steps in STEPS.items():
        for status in steps:
            assert way(status, target)[-1] == target
    assert way("Matched", "Done") == ("Running", "Completing", "Done")
    assert way("Rescheduled", "Waiting") == ("Waiting",)
    assert way("Done", "Failed") == way("Done", "Done") == way("Received", "Done") == ()


def test_an_attempt_is_counted_by_how_often_a_job_came_to_wait() -> None:
    assert attempt_of(row("Waiting")) == 1
    assert attempt_of(row("Waiting", "Received", "Checking", "Waiting")) == 1
    assert attempt_of(row("Waiting", "Received", "Waiting", "Waiting/Unknown(SM)", "Waiting")) == 1
    assert attempt_of(row("Waiting", "Waiting", "Matched", "Matched/x(SM)", "Waiting/x(SM)", "Matched")) == 1
    assert attempt_of(row("Waiting", "Waiting", "Matched", "Rescheduled", "Waiting")) == 2
    assert attempt_of(row("Waiting", "Waiting", "Running", "Received", "Waiting", "Matched", "Waiting")) == 3


@pytest.mark.parametrize("status", ["Matched", "Running", "Stalled", "Completing"])
def test_a_job_is_ours_while_it_is_at_our_site(status: str) -> None:
    assert why_not_ours(row(status), "here") == ""
    assert "another site" in why_not_ours(row(status, site="there"), "here")


@pytest.mark.parametrize("status", ["Done", "Failed", "Killed", "Deleted", "Waiting", "Received", "Checking"])
def test_a_job_is_not_ours_when_it_has_ended_or_waits_there(status: str) -> None:
    assert status in why_not_ours(row(status), "here")


@pytest.mark.parametrize("state", sorted(SETTLED))
def test_what_is_told_of_an_end_fits_where_it_goes(state: JobState) -> None:
    ending = GridEnding(job=GridJob(id="1"), state=state, exit_status=1, cause="\x1b[2J\u202e" * 1000)

    told = told_of(ending)

    assert told.status == ENDED[state]
    assert len(told.application) <= 255
    assert told.application.isprintable()


def test_the_servers_time_is_never_ahead_of_it_and_always_later_than_before() -> None:
    server = datetime(2030, 1, 1, 12, 0, 0, 700_000, tzinfo=UTC)
    clock = GridClock()

    clock.hear("Tue, 01 Jan 2030 12:00:00 GMT", 100.0)
    assert server - timedelta(seconds=1) < clock.now(100.0) <= server
    clock.hear("2030-01-01T12:00:01.600000Z", 101.0)
    assert server + timedelta(seconds=0.89) < clock.now(101.0) <= server + timedelta(seconds=1)
    times = [clock.now(101.0) for _ in range(5)]
    assert times == sorted(set(times))


@pytest.mark.parametrize("words", ["", "soon", ",,,", "2030-01-01", "9999-12-31T00:00:00Z", "Tue, 99 Jan 2030 1:2:3"])
def test_what_is_no_time_is_passed_over(words: str) -> None:
    clock = GridClock()

    clock.hear(words, 1.0)

    assert abs(clock.now(1.0) - datetime.now(UTC)) < timedelta(minutes=1)


FILES: dict[str, Any] = {"operator_credential": "/nowhere/o", "pilot_credential": "/nowhere/p"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "operator_credential is missing"),
        ({"operator_credential": "x"}, "pilot_credential is missing"),
        (FILES, "source.url"),
        ({**FILES, "url": "http://diracx.example.org"}, "https://HOST"),
        ({**FILES, "url": "https://me:secret@diracx.example.org"}, "https://HOST"),
        ({**FILES, "url": "https://[::1"}, "https://HOST"),
        ({**FILES, "url": "ftp://x"}, "https://HOST"),
        ({**FILES, "url": "https://x", "matcher": "classic"}, "matcher_command is missing"),
    ],
)
def test_settings_that_cannot_be_are_told(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_dirac(DiracSettings(**settings), "dirac")

    assert "secret" not in str(caught.value)


def test_certificates_that_are_none_are_told(tmp_path) -> None:
    (tmp_path / "ca.pem").write_text("none")

    with pytest.raises(SourceRefused, match="ca_file"):
        make_dirac(DiracSettings(**FILES, url="https://x", ca_file=str(tmp_path / "ca.pem")), "dirac")


def test_the_package_says_where_the_source_is() -> None:
    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    points = dict(
        line.split(" = ") for line in config["options.entry_points"]["volunteer_cloud.sources"].strip().splitlines()
    )

    plugin = EntryPoint("dirac", points["dirac"], SOURCES.group).load()

    assert plugin.settings is DiracSettings


def test_a_good_one_is_made_without_asking_a_server() -> None:
    make_dirac(DiracSettings(**FILES, url="https://diracx.example.org"), "dirac").close()


def test_a_setting_of_the_wrong_kind_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"source\.kind"):
        make_source({"kind": "dirak"}, "x")
