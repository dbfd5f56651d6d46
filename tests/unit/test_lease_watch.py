"""The lease clock goes on only when all beats said before have been read, whoever reads them."""

from __future__ import annotations

from adapters.job.lease_watch import GONE_S, PACE, Advice, LeaseWatch
from adapters.ledger.clock import Reader, Readers

ME, OTHER = "adapter-a", "adapter-b"
MOST_S = 15.0


class Watched(LeaseWatch):
    """A watch whose clock goes on as it advises, beside another adapter's turns, if there is one."""

    def __init__(self) -> None:
        super().__init__(ME, most_gap_s=MOST_S)
        self.now_ms = 0

    def see(self, now_s: float, mark: str = "", turns: int = 1, other: int | None = None, kept_by: str = ME) -> Advice:
        readers = {ME: Reader(turns, mark)} | ({} if other is None else {OTHER: Reader(other, "")})
        advice = self.look(Readers(kept_by, readers, self.now_ms), now_s)
        self.now_ms += int(advice.step_s * 1000)
        return advice


def mark_and_return(watch: Watched, mark: str, sent_s: float, looked_s: float) -> float:
    watch.sent(mark, sent_s)
    return watch.see(looked_s, mark).step_s


def started() -> Watched:
    """Keep the clock, with a first mark that was sent at 0 s and has come back."""
    made = Watched()
    made.see(0)
    assert mark_and_return(made, "first", 0, 5) == 0
    return made


def test_a_clock_that_nobody_keeps_is_taken_over() -> None:
    assert Watched().see(0, kept_by="") == Advice(takes_over=True)


def test_the_clock_goes_on_from_mark_to_mark() -> None:
    made = started()

    steps = [mark_and_return(made, f"m{n}", 5.0 * n, 5.0 * n + 5) for n in (1, 2, 3)]

    assert steps == [5, 5, 5]


def test_while_marks_are_under_way_the_clock_stands_and_then_catches_up_at_its_pace() -> None:
    made = started()
    for n in range(1, 5):
        made.sent(f"m{n}", 5.0 * n)

    under_way = [made.see(5.0 * n, "first").step_s for n in range(2, 6)]
    back = [made.see(25.0 + 5 * n, "m4").step_s for n in range(1, 5)]

    assert under_way == [0, 0, 0, 0]
    assert back == [5 * PACE, 5 * PACE, 5, 0]


def test_what_held_the_beats_up_held_the_clock_up_too() -> None:
    """A backlog, a broker that was away, an adapter that was stopped: of 10 minutes three sweeps are left."""
    made = started()

    steps = [mark_and_return(made, f"m{n}", 600.0 + 5 * n, 605.0 + 5 * n) for n in range(8)]

    assert sum(steps) == MOST_S + 7 * 5


def test_time_in_which_the_broker_took_no_mark_does_not_count() -> None:
    made = started()
    for n in range(1, 100):
        made.sent(f"lost{n}", 5.0 * n)
        made.not_taken(f"lost{n}")
        made.see(5.0 * n + 5, "first")

    steps = [mark_and_return(made, f"m{n}", 500.0 + 5 * n, 505.0 + 5 * n) for n in range(8)]

    assert sum(steps) == MOST_S + 7 * 5


def test_a_mark_that_never_comes_back_holds_nothing_up() -> None:
    made = started()
    made.sent("gone", 5)
    made.see(10, "first")

    assert mark_and_return(made, "next", 10, 15) == 5 * PACE


def test_a_second_adapter_must_have_written_down_what_it_holds() -> None:
    made = Watched()
    made.see(0, other=7)
    made.sent("a", 0)
    steps = []
    for now_s, mark, other in ((5, "a", 7), (10, "b", 7), (15, "c", 8), (20, "d", 8), (25, "e", 9), (30, "f", 10)):
        steps.append(made.see(now_s, mark, int(now_s), other).step_s)
        made.sent(chr(ord(mark) + 1), now_s)

    # Its turns are 7 when the first two marks are back, so from the ninth on what lies between these two has passed.
    assert steps == [0, 0, 0, 0, 5, 5 * PACE]


def test_a_second_adapter_that_is_frozen_holds_the_clock_until_the_broker_has_given_it_up() -> None:
    made = Watched()
    steps, gone_at = [], None
    for n in range(60):
        made.sent(f"m{n}", 5.0 * n)
        is_frozen = gone_at is None and n > 20
        other = None if gone_at is not None else min(n, 20)
        advice = made.see(5.0 * n + 4, f"m{n - 1}", n, other)
        steps.append(advice.step_s)
        gone_at = n if advice.gone else gone_at
        assert not (is_frozen and n > 23 and not advice.gone and advice.step_s)

    assert gone_at is not None
    assert 5.0 * (gone_at - 20) >= GONE_S
    assert abs(sum(steps) - 300) <= 15 + 5, "what it had held up was caught up"


def test_an_adapter_that_is_started_anew_is_not_waited_for_until_it_has_as_many_turns_as_before() -> None:
    made = Watched()
    made.see(0, other=700)
    for n in range(1, 4):
        made.sent(f"m{n}", 5.0 * n)
        made.see(5.0 * n + 1, f"m{n}", n, 700)

    steps = []
    for n in range(4, 12):
        made.sent(f"m{n}", 5.0 * n)
        steps.append(made.see(5.0 * n + 1, f"m{n}", n, n - 4).step_s)

    assert sum(steps) >= 20


def test_who_did_not_look_itself_takes_nobody_for_gone() -> None:
    made = started()
    made.see(5, "first", 2, 7)

    after_an_hour = made.see(3605, "first", 3, 7)

    assert after_an_hour.gone == ()


def test_who_keeps_the_clock_is_followed_only_once_it_is_gone() -> None:
    made = Watched()

    seen = [made.see(5.0 * n, turns=n, other=7, kept_by=OTHER) for n in range(1, 16)]

    assert [advice.takes_over for advice in seen[:12]] == [False] * 12
    assert seen[-1] == Advice(takes_over=True, gone=(OTHER,))


def test_who_takes_its_turns_but_lets_the_clock_stand_is_relieved() -> None:
    """It has lost its broker and not its ledger: its own marks do not come back."""
    made, seen = Watched(), []
    for n in range(40):
        made.sent(f"m{n}", 5.0 * n)
        seen.append(made.see(5.0 * n + 1, f"m{n}", n, n, kept_by=OTHER).takes_over)

    relieved_at = seen.index(True)
    assert GONE_S <= 5 * relieved_at <= GONE_S + 30


def test_who_does_not_keep_the_clock_knows_what_it_owes_since_it_last_moved() -> None:
    made = Watched()
    for n in range(20):
        made.now_ms = 5000 * n
        made.sent(f"m{n}", 5.0 * n)
        assert not made.see(5.0 * n + 1, f"m{n}", n, n, kept_by=OTHER).takes_over

    made.sent("m20", 100)
    assert made.see(101, "m20", 20, None, kept_by="").takes_over
    steps = []
    for n in range(21, 30):
        made.sent(f"m{n}", 5.0 * n)
        steps.append(made.see(5.0 * n + 1, f"m{n}", n, None).step_s)

    assert 5 * 9 <= sum(steps) <= 5 * 9 + 15
