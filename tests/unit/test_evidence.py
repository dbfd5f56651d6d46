"""The page of evidence keeps one row a test, and loses nothing that stands around its tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import evidence

TESTS = Path(__file__).parents[1]
TEXT = "# Evidence\n\nBefore.\n\n<!-- long: begin -->\n<!-- long: end -->\n\nAfter.\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    made = tmp_path / "evidence.md"
    made.write_text(TEXT)
    return made


def test_rows_of_one_test_replace_each_other_and_others_stay(page: Path) -> None:
    first = evidence.Row("a", "1 fault", "7", "2026-01-01", "abc")
    other = evidence.Row("b", "passed", "8", "2026-01-01", "abc")
    later = first._replace(seen="none | at all", commit="def+")

    evidence.write("long", [first, other], page)
    evidence.write("long", [later], page)

    lines = page.read_text().splitlines()
    assert "| a | none / at all | 7 | 2026-01-01 | def+ |" in lines
    assert "| b | passed | 8 | 2026-01-01 | abc |" in lines
    assert len([line for line in lines if line.startswith("| ")]) == 4
    assert (lines[0], lines[2], lines[-1]) == ("# Evidence", "Before.", "After.")


def test_a_page_without_the_place_is_refused_by_name(page: Path) -> None:
    with pytest.raises(ValueError, match=r"evidence\.md: there is no <!-- peers: begin -->"):
        evidence.write("peers", [], page)

    assert page.read_text() == TEXT


def test_a_row_says_when_and_of_which_commit() -> None:
    made = evidence.row("a", "passed", 3.4)

    assert made.seconds == "3"
    assert len(made.date) == len("2026-01-01")
    assert made.commit


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:tests/|test_)[\w/]*\.py)::(\w+)", evidence.PAGE.read_text()))

    missing = [f"{file}::{name}" for file, name in named if not any(_has(path, name) for path in _called(file))]

    assert len(named) > 200
    assert missing == []


def _called(file: str) -> list[Path]:
    return [TESTS.parent / file] if "/" in file else list(TESTS.rglob(file))


def _has(file: Path, name: str) -> bool:
    return re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", file.read_text(), re.MULTILINE) is not None
