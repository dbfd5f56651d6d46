"""Whose outputs go first where all have too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.storage.fairness import to_give


def test_who_has_the_most_gives_first_until_the_givers_have_the_same() -> None:
    assert to_give({"a": 100, "b": 10, "c": 10}, 60) == {"a": 60}
    assert to_give({"a": 100, "b": 70, "c": 10}, 90) == {"a": 60, "b": 30}
    assert to_give({"a": 10, "b": 10}, 20) == {}
    assert to_give({}, 0) == {}


@given(st.dictionaries(st.text(max_size=2), st.integers(0, 10**6), max_size=6), st.integers(0, 10**6))
def test_afterwards_all_is_within_the_bound_and_nobody_gave_before_who_has_more(
    stored: dict[str, int], most: int
) -> None:
    given = to_give(stored, most)

    left = {owner: size - given.get(owner, 0) for owner, size in stored.items()}
    assert sum(left.values()) <= max(most, 0)
    assert all(size >= 0 for size in left.values())
    if given:
        level = {left[owner] for owner in given}
        assert len(level) == 1
        assert all(size <= level.copy().pop() for size in left.values())
        assert sum(left.values()) > most - len(stored), "no more than needed"
