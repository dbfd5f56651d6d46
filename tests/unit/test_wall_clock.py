"""A VM's wall clock follows the centre's, in a VM of ours only, and only by an answer that came soon."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from guest_agent import wall_clock
from guest_agent.seed import SeedSource


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock was set to; it stands at 1000."""
    made: list[float] = []
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setattr(time, "clock_settime", lambda clock, to_s: made.append(to_s))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


@pytest.mark.parametrize(("server_s", "expected"), [(1333.0, [1333.0]), (700.0, [700.0]), (1001.0, []), (999.0, [])])
def test_a_clock_that_is_off_is_set_and_one_that_is_near_left_alone(
    settings: list[float], server_s: float, expected: list[float]
) -> None:
    wall_clock.follow(int(server_s * 1000))

    assert settings == expected


def test_an_agent_that_is_not_root_sets_no_clock(settings: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    wall_clock.follow(5_000_000)

    assert settings == []


def test_only_a_seed_that_a_hypervisor_hands_in_makes_the_clock_ours(tmp_path: Path) -> None:
    assert SeedSource(None).is_a_machines
    assert not SeedSource(tmp_path / "seed").is_a_machines
