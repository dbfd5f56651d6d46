"""Until when a guest may keep an attempt, without a database."""

from __future__ import annotations

import pytest

from adapters.ledger import terms
from adapters.ledger.policy import Policy
from adapters.ledger.terms import Term
from schemas.description import JobDescription

POLICY = Policy(begin_s=60, staging_s=100, pause_limit_s=1000)


def test_a_job_may_take_its_wall_time_its_grace_and_the_way_of_its_files() -> None:
    job = JobDescription(id="j1", executable="x", wall_time_s=3600.0, grace_s=20.0)
    checked = JobDescription(id="j1", executable="x", wall_time_s=3600.0, grace_s=20.0, validation="check")

    assert terms.may_take_ms(job, POLICY) == 3_720_000
    assert terms.may_take_ms(checked, POLICY) == 7_340_000


def test_it_must_begin_soon_and_has_its_time_from_then_on() -> None:
    term = terms.given(5000, 1000, POLICY)

    assert (term, terms.begun(term, 9000)) == (Term(5000, 61_000), Term(0, 14_000))


def test_it_has_one_term_however_often_it_begins() -> None:
    once = terms.begun(Term(5000, 61_000), 9000)

    assert terms.begun(once, 13_000) == once


def test_what_has_only_outputs_left_has_the_way_of_its_files() -> None:
    assert terms.storing(Term(0, 9_000_000), 1000, POLICY) == Term(0, 101_000)
    assert terms.storing(Term(0, 2000), 1000, POLICY) == Term(0, 2000)


def test_what_is_added_is_bounded_in_all() -> None:
    term = terms.stretched(Term(0, 100), 900_000, POLICY)

    assert term == Term(0, 900_100, 900_000)
    assert terms.stretched(term, 900_000, POLICY) == Term(0, 1_000_100, 1_000_000)
    assert terms.stretched(term, -5, POLICY) == term


def test_what_has_no_term_has_none_when_time_is_added() -> None:
    assert terms.stretched(Term(0, 0), 900_000, POLICY) == Term(0, 0)


@pytest.mark.parametrize(
    ("over_ms", "paused_ms", "now_ms", "is_over"),
    [
        (0, 0, 9000, False),
        (1000, 0, 1000, False),
        (1000, 0, 1001, True),
        (1000, 900, 1001, False),
        (1000, 900, 901 + 1_000_000, True),
    ],
)
def test_a_term_ends_by_the_clock_and_not_in_a_pause(over_ms: int, paused_ms: int, now_ms: int, is_over: bool) -> None:
    assert terms.is_over(over_ms, paused_ms, now_ms, POLICY) is is_over
