"""What ``host_agent plan`` makes of job files as projects write them, beside a table that is kept with them.

``python -m tests.unit.test_boinc_samples`` writes the table anew; read what it changes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from host_agent.boinc.job_files import read_plan_file

SAMPLES = sorted((Path(__file__).parent / "boinc_samples").glob("*.xml"))


def plan_of(sample: Path) -> str:
    return msgspec.json.format(msgspec.json.encode(read_plan_file(sample)), indent=2).decode() + "\n"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_job_file_comes_to_the_plan_in_the_table(sample: Path) -> None:
    assert plan_of(sample) == sample.with_suffix(".json").read_text()


def test_there_are_samples_of_every_format() -> None:
    assert {path.stem.partition("_")[0] for path in SAMPLES} == {"wrapper", "vmwrapper", "vbox"}


if __name__ == "__main__":
    for one in SAMPLES:
        one.with_suffix(".json").write_text(plan_of(one))
