"""The page for administrators of DIRAC agrees with the code: its settings are some, its states those that are set."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from adapters.sources.contract import GridEnding, GridJob
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.dirac.states import WHILE, told_of
from schemas.ledger import SETTLED, JobState

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "dirac.md").read_text()


def test_the_table_of_states_is_what_is_said() -> None:
    rows = re.findall(r"^\| ([a-z-]+) \| ([A-Z]\w+) \| ([^|]+) \|$", PAGE, re.MULTILINE)

    ends = {state: told_of(GridEnding(job=GridJob(id="1"), state=state, exit_status=1)) for state in SETTLED}
    assert {JobState(state): (status, minor) for state, status, minor in rows} == {
        state: (told.status, told.minor) for state, told in {**WHILE, **ends}.items()
    }


def test_its_settings_are_settings() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)

    settings = msgspec.convert(tomllib.loads(block)["source"], DiracSettings)

    assert settings.only == {"VO": "biomed", "JobType": "User"}
    assert settings.cpu_factor == 10.0
