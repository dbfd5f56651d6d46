"""The page for administrators of PanDA agrees with the code: its settings are some, its states and codes those set."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from adapters.sources.contract import GridEnding, GridJob
from adapters.sources.panda import stores
from adapters.sources.panda.settings import PandaSettings
from adapters.sources.panda.states import GIVEN_BACK, WHILE, code_of, given_back, told_of
from schemas.description import MAX_INPUTS
from schemas.ledger import SETTLED, JobState

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "panda.md").read_text()
JOB = GridJob(id="1")


def codes(state: JobState) -> list[int]:
    """Give the codes of an end by its exit status: of its own, 0, and none."""
    found = [code_of(GridEnding(job=JOB, state=state, exit_status=status)) for status in (1, 0, -1)]
    return list(dict.fromkeys(code.number for code in found if code))


def test_the_table_of_states_is_what_is_said() -> None:
    rows = re.findall(r"^\| ([a-z -]+) \| ([a-z]+) \|([^|]*)\|$", PAGE, re.MULTILINE)

    said = {name: (status, [int(code) for code in re.findall(r"\d{4}", words)]) for name, status, words in rows}
    ends = {state: told_of(GridEnding(job=JOB, state=state), "", "")["job_status"] for state in SETTLED}
    expected = {str(state): (status, codes(state)) for state, status in ends.items()}
    expected |= {str(state): (status, []) for state, status in WHILE.items()}
    expected["given back"] = (given_back(JOB, "")["job_status"], [GIVEN_BACK.number])
    assert said == expected


def test_its_settings_are_settings() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)

    settings = msgspec.convert(tomllib.loads(block)["source"], PandaSettings)

    assert settings.resource_types == {"SCORE": 1, "MCORE": 8}
    assert settings.origin.endswith(".production")


def test_its_bounds_are_those_of_the_code() -> None:
    assert f"up to {stores.MOST_LOG_BYTES >> 20} MiB" in PAGE
    assert f"{MAX_INPUTS:,} inputs" in PAGE
