"""The lease clock goes on only when all beats said before have been read, whoever reads them."""

from __future__ import annotations

from adapters.job.lease_watch import GONE_S, MARK_LOST_S, Advice, LeaseWatch
from adapters.ledger.clock import Reader, Readers

ME, OTHER = "adapter-a", "adapter-b"
MOST_S = 10.0


def watch() -> LeaseWatch:
    return LeaseWatch(ME, most_step_s=MOST_S)


def found(mark: str = "", turns: int = 1, other: int | None = None, kept_by: str = ME) -> Readers:
    readers = {ME: Reader(turns, mark)}
    return Readers(kept_by, readers if other is None else readers | {OTHER: Reader(other, "")})


def mark_and_return(watch: LeaseWatch, mark: str, sent_s: float, looked_s: float) -> float:
    watch.sent(mark, sent_s)
    return watch.look(found(mark), looked_s).step_s


def started() -> LeaseWatch:
    """Keep the clock, with a first mark that was sent at 0 s and has come back."""
    made = watch()
    made.look(found(), 0)
    assert mark_and_return(made, "first", 0, 5) == 0
    return made


def test_a_clock_that_nobody_keeps_is_taken_over() -> None:
    made = watch()

    assert made.look(found(kept_by=""), 0) == Advice(takes_over=True)
    assert not made.wants_mark(0)
    made.look(found(), 5)
    assert made.wants_mark(5)


def test_the_clock_goes_on_from_mark_to_mark() -> None:
    made = started()

    steps = [mark_and_return(made, f"m{n}", 5.0 * n, 5.0 * n + 5) for n in (1, 2, 3)]

    assert steps == [5, 5, 5]


def test_while_a_mark_is_under_way_the_clock_stands_still_and_no_second_is_sent() -> None:
    made = started()
    made.sent("late", 5)

    steps = [made.look(found("first"), now_s).step_s for now_s in (10, 15, 20)]

    assert steps == [0, 0, 0]
    assert not made.wants_mark(20)


def test_what_held_the_beats_up_held_the_clock_up_too() -> None:
    """A backlog, a broker that was away, an adapter that was stopped: of 10 minutes one step is left."""
    made = started()

    assert mark_and_return(made, "late", 600, 605) == MOST_S
    assert mark_and_return(made, "next", 605, 610) == 5


def test_beats_that_come_together_each_period_hold_nothing_up() -> None:
    made = started()

    passed = sum(mark_and_return(made, f"m{n}", 5.0 * n + 0.3, 5.0 * n + 5) for n in range(1, 21))

    assert passed > 95


def test_a_mark_that_went_with_its_link_is_sent_again() -> None:
    made = started()
    made.sent("gone", 5)
    made.look(found("first"), 10)

    assert not made.wants_mark(5 + MARK_LOST_S)
    assert made.wants_mark(6 + MARK_LOST_S)


def test_a_second_adapter_must_have_written_down_what_it_holds() -> None:
    made = watch()
    made.look(found(other=7), 0)
    made.sent("a", 0)

    steps = []
    for now_s, turns, other in ((5, 2, 7), (10, 3, 7), (15, 4, 8), (20, 5, 9)):
        steps.append(made.look(found("a", turns, other), now_s).step_s)
    is_done = made.wants_mark(20)
    made.sent("b", 20)
    for now_s, turns, other in ((25, 6, 10), (30, 7, 11), (35, 8, 12)):
        steps.append(made.look(found("b", turns, other), now_s).step_s)

    assert is_done
    assert steps == [0, 0, 0, 0, 0, 0, MOST_S]


def test_a_second_adapter_that_is_frozen_holds_the_clock_until_the_broker_has_given_it_up() -> None:
    made = started()
    made.look(found("first", 2, 7), 5)
    made.sent("a", 5)

    seen = [made.look(found("a", 3 + n, 7), 5.0 * n) for n in range(2, 20)]

    gone_at = next(n for n, advice in enumerate(seen) if advice.gone)
    assert all(advice.step_s == 0 for advice in seen[:gone_at])
    assert 5.0 * (gone_at + 2) > GONE_S
    assert seen[gone_at].gone == (OTHER,)


def test_who_keeps_the_clock_is_followed_only_once_it_is_gone() -> None:
    made = watch()

    seen = [made.look(found(turns=n, other=7, kept_by=OTHER), 5.0 * n) for n in range(1, 16)]

    assert [advice.takes_over for advice in seen[:12]] == [False] * 12
    assert seen[-1] == Advice(takes_over=True, gone=(OTHER,))
