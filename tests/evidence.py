"""Keeps the last figures of tests that are run seldom, in a page that people read. Knows tables, not what was tested.

The page has a place for each tier between two comments; what is there is replaced. A run of a part of a tier replaces
that part's rows alone, so that figures of different days stand beside each other, each with its date and commit.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "evidence.md"
HEAD = ["| test | what was seen | seconds | date | commit |", "| --- | --- | --- | --- | --- |"]


class Row(NamedTuple):
    """One test's last run. ``seen`` is its figures, or its outcome where it recorded none."""

    test: str
    seen: str
    seconds: str
    date: str
    commit: str

    def __str__(self) -> str:
        return f"| {' | '.join(word.replace('|', '/') for word in self)} |"


class Recorder:
    """Notes what the tests of one tier's folder saw: their figures (``record_property``), or how they ended."""

    def __init__(self, tier: str) -> None:
        self._tier, self._rows = tier, list[Row]()

    def note(self, report: pytest.TestReport) -> None:
        """Take one test's end; the hook ``pytest_runtest_logreport`` of a conftest."""
        folder = f"tests/{self._tier}/"
        if report.when == "call" and not report.skipped and report.nodeid.startswith(folder):
            figures = [f"{name} {value}" for name, value in report.user_properties]
            seen = ", ".join(figures) if report.passed and figures else report.outcome
            self._rows.append(row(report.nodeid.removeprefix(folder), seen, report.duration))

    def write(self) -> None:
        """Put it on the page; a run that tested nothing changes nothing. The hook ``pytest_sessionfinish``."""
        if self._rows:
            write(self._tier, self._rows)


def write(tier: str, rows: list[Row], page: Path = PAGE) -> None:
    """Put rows into a tier's table, in the place of older ones of the same tests. ValueError without the place."""
    begin, end = f"<!-- {tier}: begin -->\n", f"<!-- {tier}: end -->"
    before, found, rest = page.read_text().partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{page}: there is no {begin.strip()} … {end}")
    old, _, after = rest.partition(end)
    kept = {row.test: row for row in _read(old)} | {row.test: row for row in rows}
    table = "\n".join([*HEAD, *(str(kept[test]) for test in sorted(kept))])
    page.write_text(f"{before}{begin}{table}\n{end}{after}")


def row(test: str, seen: str, seconds: float) -> Row:
    """Make a row of now, and of what is checked out; a commit that was changed has a + behind it."""
    return Row(test, seen, f"{seconds:.0f}", time.strftime("%Y-%m-%d", time.gmtime()), _commit())


def _read(table: str) -> list[Row]:
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]


def _commit() -> str:
    said = [_git("rev-parse", "--short", "HEAD"), "+" if _git("status", "--porcelain", "-uno") else ""]
    return "".join(said)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, cwd=PAGE.parent, check=False).stdout.strip()
