"""What a job slot takes ahead: much of what is short, nothing of what is long, and no more than will run soon."""

from __future__ import annotations

from typing import cast

import pytest

from guest_agent.attempt import Attempt
from guest_agent.slot import PATIENCE_S, Slot

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
    asked.busy = busy.busy = 1
    asked.learn(0.001)
    asked.ask([0])

    assert (asked.wanted(), busy.wanted()) == ([], [])


@pytest.mark.parametrize(
    ("took_s", "wanted"),
    [([0.001], 2), ([0.001] * 2, 4), ([0.001] * 20, 64), ([0.6] * 5, 2), ([PATIENCE_S], 1), ([0.001] * 20 + [0.9], 2)],
)
def test_what_a_slot_wants_grows_with_short_jobs_and_drops_with_one_long_one(took_s: list[float], wanted: int) -> None:
    assert len(slot_after(*took_s).wanted()) == wanted


def test_one_short_job_after_a_long_one_says_little() -> None:
    assert len(slot_after(*[0.001] * 20, PATIENCE_S, 0.001).wanted()) == 2


def test_a_slot_asks_for_many_at_once_and_not_for_each_alone() -> None:
    slot = slot_after(*[0.001] * 20)
    slot.ask(list(LANES))
    slot.busy = 1
    wanted = []
    for lane in LANES:
        slot.serve(lane)
        wanted.append(len(slot.wanted()))

    assert wanted[:32] == [0] * 32
    assert wanted[32] == 32


def test_a_slot_never_asks_twice_on_a_lane() -> None:
    slot = slot_after(*[0.001] * 20)
    slot.ask([0, 2, 4])

    assert slot.wanted() == list(LANES)[3:]


@pytest.mark.parametrize(
    ("took_s", "busy", "kept"),
    [([0.002] * 20, 1, 60), ([0.002] * 20 + [0.5], 1, 2), ([PATIENCE_S], 1, 0), ([PATIENCE_S], 0, 1)],
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


def test_what_runs_and_waits_before_a_job_is_counted() -> None:
    slot = slot_after(0.001, 0.001)
    slot.busy = 1
    fill(slot, 2)
    slot.ask([0, 2])

    assert slot.ahead == 3


def test_an_idle_slot_says_again_that_it_would_begin_at_once() -> None:
    slot = slot_after(*[0.001] * 20)
    slot.ask(list(LANES))
    slot.serve(0)

    assert (slot.wanted(), slot.is_idle) == ([2], True)


@pytest.mark.parametrize(("took_s", "busy", "kept"), [(0.5, 1, 1), (0.5, 0, 2), (PATIENCE_S, 1, 0), (0.05, 1, 64)])
def test_what_a_long_job_makes_needless_is_withdrawn(took_s: float, busy: int, kept: int) -> None:
    slot = slot_after(*[0.001] * 20)
    slot.ask(list(LANES))
    slot.busy = busy
    slot.learn(took_s)

    assert slot.unwanted() == list(LANES)[kept:]
    assert slot.asked == list(LANES)[:kept]
    assert slot.unwanted() == []
