"""How far somebody has read of the events: none is missed in silence, none is given twice."""

from __future__ import annotations

from schemas.events import Event, Events
from volcloud.client.events import EventGap, EventPlace


def page(*numbers: int, last: int = 0, removed: int = 0, ledger: str = "a") -> Events:
    rows = [Event(number=number, event="state", host="host-1") for number in numbers]
    following = max(numbers, default=last)
    return Events(call="", events=rows, next=following, last=last or following, removed=removed, ledger=ledger)


def given(place: EventPlace, answer: Events) -> list[int | str]:
    return [one.number if isinstance(one, Event) else f"gap {one.after}-{one.upto}" for one in place.take(answer)]


def test_pages_are_taken_one_behind_the_other() -> None:
    place = EventPlace(4)

    first = given(place, page(5, 6, last=9))
    is_behind = place.is_behind(page(5, 6, last=9))
    second = given(place, page(7, 9))

    assert (first, is_behind, second, place.after) == ([5, 6], True, [7, 9], 9)
    assert not place.is_behind(page(7, 9))


def test_an_empty_page_moves_on_and_never_back() -> None:
    place = EventPlace(4)

    assert given(place, page(last=9)) == []
    assert place.after == 9


def test_what_was_removed_between_two_questions_is_told_once() -> None:
    place = EventPlace(10)
    given(place, page(11))

    told = [given(place, page(40, last=90, removed=30)), given(place, page(41, last=90, removed=30))]

    assert told == [["gap 11-30", 40], [41]]


def test_who_begins_with_the_oldest_has_missed_nothing_of_what_was_removed() -> None:
    assert given(EventPlace(), page(40, removed=30)) == [40]


def test_what_was_removed_and_had_been_given_is_no_gap() -> None:
    place = EventPlace(10)
    given(place, page(11, 12, 13))

    assert given(place, page(14, removed=12)) == [14]


def test_another_ledger_is_read_from_its_first_event() -> None:
    place = EventPlace(10)
    given(place, page(11))

    told = place.take(page(last=3, ledger="b"))

    assert [type(one) for one in told] == [EventGap]
    assert "another ledger" in getattr(told[0], "why", "")
    assert given(place, page(1, 2, 3, ledger="b")) == [1, 2, 3]


def test_a_ledger_that_was_brought_back_from_a_copy_is_followed_from_there() -> None:
    place = EventPlace(10)
    given(place, page(11))

    told = given(place, page(last=5))

    assert told == ["gap 11-5"]
    assert given(place, page(6)) == [6]
