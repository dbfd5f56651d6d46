"""A VM's wall clock: put forward by what the host says it stood still, set by the centre's answers, and waited for."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from guest_agent.seed import SeedSource
from guest_agent.wall_clock import FRESH_S, HostsWord, WallClock

#: Quick enough to tell the time.
SOON_S = 0.2


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock was set to, first of all to 1000; it stands at the last."""
    made = [1000.0]
    monkeypatch.setattr(time, "time", lambda: made[-1])
    monkeypatch.setattr(time, "clock_settime", lambda clock, to_s: made.append(to_s))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


@pytest.mark.parametrize(
    ("server_s", "expected"), [(1333.0, [1333.1]), (700.0, [700.1]), (1001.0, [1001.1]), (1000.3, []), (999.5, [])]
)
def test_a_clock_that_is_off_is_set_and_one_that_is_near_left_alone(
    settings: list[float], server_s: float, expected: list[float]
) -> None:
    clock = WallClock()

    clock.follow(int(server_s * 1000), SOON_S)

    assert settings[1:] == pytest.approx(expected)
    assert clock.is_sure


def test_an_answer_that_took_long_tells_nothing_until_all_take_long(settings: list[float]) -> None:
    clock, took_s, answers = WallClock(), 4 * FRESH_S, 0

    while not clock.is_sure:
        clock.follow(2_000_000, took_s)
        answers += 1

    assert answers > 2
    assert settings[1:] == [2002.0]
    clock.doubt()
    clock.follow(9_000_000, took_s)
    assert not clock.is_sure


def test_one_that_cannot_be_set_keeps_no_job_waiting(settings: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(clock: int, to_s: float) -> None:
        raise PermissionError("not ours")

    monkeypatch.setattr(time, "clock_settime", refuse)
    clock = WallClock()

    clock.follow(9_000_000, SOON_S)

    assert clock.is_sure


def test_an_agent_that_is_not_root_sets_no_clock(settings: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    clock = WallClock()

    clock.stood_still(8.0, 1_008_000)
    clock.follow(5_000_000, SOON_S)

    assert settings == [1000.0]
    assert clock.is_sure


def test_only_a_seed_that_a_hypervisor_hands_in_makes_the_clock_ours(tmp_path: Path) -> None:
    assert SeedSource(None).is_a_machines
    assert not SeedSource(tmp_path / "seed").is_a_machines


async def test_who_was_away_is_put_forward_at_once_and_in_doubt_until_the_centre_answers(
    settings: list[float],
) -> None:
    clock, asked = WallClock(), list[bool]()
    clock.follow(1_000_000, SOON_S)
    clock.on_doubt.append(lambda: asked.append(True))

    clock.stood_still(86_400.0, 87_400_000)
    waiting = asyncio.ensure_future(clock.wait_sure())
    await asyncio.sleep(0)
    has_waited = not waiting.done()
    clock.follow(87_410_000, SOON_S)
    async with asyncio.timeout(10):
        await waiting

    assert has_waited
    assert asked == [True]
    assert settings[1:] == pytest.approx([87_400.0, 87_410.1])


def test_the_hosts_own_clock_may_be_an_hour_off(settings: list[float]) -> None:
    WallClock().stood_still(8.0, (1008 + 3600) * 1000)

    assert settings[1:] == [1008.0]


def test_a_word_that_came_late_does_not_move_a_clock_that_is_right(settings: list[float]) -> None:
    clock = WallClock()

    clock.stood_still(3.0, 1_000_000)

    assert settings == [1000.0]
    assert not clock.is_sure


def test_how_long_it_stood_still_is_what_the_hosts_clock_is_ahead_more_than_before() -> None:
    word = HostsWord()

    assert word.hear(500_000, 100.0) == 0
    assert word.hear(505_050, 105.0) == 0
    assert word.hear(518_050, 110.0) == pytest.approx(8.0)
    assert word.hear(523_050, 115.0) == 0


def test_words_that_come_late_are_nothing_and_nor_is_the_next_in_time() -> None:
    word = HostsWord()
    word.hear(500_000, 100.0)

    assert word.hear(502_000, 105.0) == 0
    assert word.hear(510_000, 110.0) == 0
    assert word.hear(600_000, 120.0) == pytest.approx(80.0)


def test_a_host_whose_clock_was_set_back_is_not_believed_before_it_has_caught_up() -> None:
    word = HostsWord()
    word.hear(500_000, 100.0)

    assert word.hear(405_000, 105.0) == 0
    assert word.hear(410_000, 110.0) == 0
