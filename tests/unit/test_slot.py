"""What a job slot takes ahead: much of what is short, nothing of what is long, and no more than will run soon."""

from __future__ import annotations

from typing import cast

import pytest

from guest_agent.attempt import Attempt
from guest_agent.slot import SHORT_S, Slot

LANES = range(0, 128, 2)


def slot_after(*took_s: float) -> Slot:
    slot = Slot(LANES)
    for seconds in took_s:
        slot.learn(seconds)
    return slot


def fill(slot: Slot, jobs: int) -> list[Attempt]:
    attempts = [cast(Attempt, f"attempt {number}") for number in range(jobs)]
    slot.at_hand.extend(attempts)
    return attempts


def test_a_new_slot_wants_one_job_under_its_own_number() -> None:
    assert Slot(LANES).wanted() == [0]


def test_a_slot_that_has_asked_or_is_busy_wants_nothing_more() -> None:
    asked, busy = Slot(LANES), Slot(LANES)
    asked.ask([0], "r")
    busy.busy = 1

    assert (asked.wanted(), busy.wanted()) == ([], [])


@pytest.mark.parametrize(
    ("took_s", "wanted"),
    [([0.001], 2), ([0.001] * 2, 4), ([0.001] * 20, 64), ([3.0] * 5, 2), ([SHORT_S], 1), ([0.001] * 20 + [1.0], 2)],
)
def test_what_a_slot_wants_grows_with_short_jobs_and_drops_with_one_long_one(took_s: list[float], wanted: int) -> None:
    assert len(slot_after(*took_s).wanted()) == wanted


def test_one_short_job_after_a_long_one_says_little() -> None:
    assert len(slot_after(*[0.001] * 20, 2.0, 0.001).wanted()) == 4


def test_a_slot_asks_for_many_at_once_and_not_for_each_alone() -> None:
    slot = slot_after(*[0.001] * 20)
    slot.ask(list(LANES), "r")
    wanted = []
    for lane in LANES:
        slot.serve(lane)
        wanted.append(len(slot.wanted()))

    assert wanted[:31] == [0] * 31
    assert wanted[31] == 32


def test_a_slot_never_asks_twice_on_a_lane() -> None:
    slot = slot_after(*[0.001] * 20)
    slot.ask([0, 2, 4], "r")

    assert slot.wanted() == list(LANES)[3:]


@pytest.mark.parametrize(
    ("took_s", "busy", "kept"),
    [([0.002] * 20, 1, 60), ([0.002] * 20 + [0.5], 1, 2), ([2.0], 1, 1), ([SHORT_S], 1, 0), ([SHORT_S], 0, 1)],
)
def test_what_would_wait_too_long_is_given_back_newest_first(took_s: list[float], busy: int, kept: int) -> None:
    slot = slot_after(*took_s)
    slot.busy = busy
    attempts = fill(slot, 60)

    given_back = slot.surplus()

    assert given_back == attempts[kept:][::-1]
    assert list(slot.at_hand) == attempts[:kept]


def test_a_slow_job_among_many_quick_ones_gives_nothing_back() -> None:
    slot = slot_after(*[0.002] * 20, 0.05)
    fill(slot, 60)

    assert slot.surplus() == []


def test_what_runs_and_waits_before_a_job_is_counted_and_its_own_request_is_not() -> None:
    slot = slot_after(0.001, 0.001)
    slot.busy = 1
    fill(slot, 2)
    slot.ask([0, 2], "r")

    assert (slot.ahead_of([4, 6]), slot.ahead_of([0, 2])) == (5, 3)
