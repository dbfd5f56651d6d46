"""What `make long` saw goes into the page of evidence: outcome, recorded figures, seconds, date, commit."""

from __future__ import annotations

import pytest

from tests import evidence

_seen: list[evidence.Row] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how each test ended, and what it recorded."""
    if report.when == "call" and not report.skipped:
        figures = [f"{name} {value}" for name, value in report.user_properties]
        seen = ", ".join(figures) if report.passed and figures else report.outcome
        _seen.append(evidence.row(report.nodeid.removeprefix("tests/long/"), seen, report.duration))


def pytest_sessionfinish() -> None:
    """Write it down; a run that tested nothing changes nothing."""
    if _seen:
        evidence.write("long", _seen)
