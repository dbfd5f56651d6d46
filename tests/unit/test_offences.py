"""What one principal may cost the others: dead letters, log lines, and in the end its connection."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import pytest

from broker.daemon.log_bounds import LINES, PrincipalBounds
from broker.errors import BrokerError
from broker.keys.cutting import OUT_S, Cutting
from broker.keys.realm import FakeRealm
from broker.offences import LETTER_BYTES, LETTERS, OFFENCES, Measure, Offences
from broker.principals import Principal, parse_principal
from broker.token_buckets import MOST_KEPT, TokenBuckets


def test_an_allowance_empties_and_fills_with_time() -> None:
    buckets = TokenBuckets(2, 0.5)

    taken = [buckets.take("a", now) for now in (0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 100.0, 100.0, 100.0)]

    assert taken == [True, True, False, False, True, False, True, True, False]


def test_a_clock_that_steps_back_gives_nothing_and_takes_nothing() -> None:
    buckets = TokenBuckets(1, 1.0)

    assert [buckets.take("a", now) for now in (100.0, 50.0, 50.5, 51.0)] == [True, False, False, True]


def test_the_number_of_allowances_is_bounded() -> None:
    buckets = TokenBuckets(1, 1.0)

    for number in range(3 * MOST_KEPT):
        buckets.take(number, 0.0)

    assert len(buckets._buckets) <= MOST_KEPT


def test_a_flood_fills_its_senders_share_of_the_dead_letters_and_nobody_elses() -> None:
    offences = Offences()

    flood = [offences.judge("vm-a", 10, 0.0) for _ in range(3000)]

    assert flood.count(Measure.KEEP) == LETTERS
    assert offences.judge("vm-b", 10, 0.0) is Measure.KEEP
    assert offences.take_dropped() == {"vm-a": 3000 - LETTERS}
    assert offences.take_dropped() == {}


def test_large_letters_fill_it_by_their_bytes() -> None:
    offences = Offences()

    kept = [offences.judge("vm-a", 1 << 20, 0.0) for _ in range(10)].count(Measure.KEEP)

    assert kept == LETTER_BYTES // (1 << 20)


@pytest.mark.parametrize(
    ("who", "cuts"), [("vm-a", 1), ("host-a", 1), ("site-a", 1), ("console-a", 0), ("adapter-a", 0)]
)
def test_who_goes_on_and_on_is_cut_off_and_that_is_said_once(who: str, cuts: int) -> None:
    offences = Offences()

    measures = [offences.judge(who, 10, 0.0) for _ in range(OFFENCES + 1000)]

    assert measures.count(Measure.CUT_OFF) == cuts
    assert Measure.CUT_OFF not in measures[:OFFENCES]
    assert offences.judge("vm-b", 10, 0.0) is Measure.KEEP


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_principal_is_kept_off_for_its_time_and_let_in_again() -> None:
    realm, clock = FakeRealm(), Clock()
    cutting = Cutting(realm, clock)

    assert cutting.cut_off(parse_principal("vm-a"), "a flood", "adapter-job-1")
    clock.now_s = OUT_S - 1
    cutting.sweep()
    assert realm.kept_out == {"vm-a"}
    clock.now_s = OUT_S + 1
    cutting.sweep()

    assert realm.kept_out == set()


def test_one_that_was_cut_off_before_a_restart_is_let_in_too() -> None:
    realm, clock = FakeRealm(), Clock()
    realm.kept_out.add("vm-a")
    cutting = Cutting(realm, clock)

    cutting.sweep()
    assert realm.kept_out == {"vm-a"}
    clock.now_s = OUT_S + 1
    cutting.sweep()

    assert realm.kept_out == set()


class CountingRealm(FakeRealm):
    """Counts how often it is asked who is out."""

    asked = 0

    def out(self) -> list[Principal]:
        self.asked += 1
        return super().out()


def test_who_is_out_is_asked_at_the_start_and_at_sweeps_and_not_at_each_trade() -> None:
    realm = CountingRealm()
    realm.kept_out.add("vm-a")
    cutting = Cutting(realm, Clock())

    for _ in range(100):
        for name in ("vm-a", "vm-b"):
            with cutting.staying_out(parse_principal(name)):
                realm.mint(parse_principal(name), "secret")

    assert realm.asked == 1
    assert realm.kept_out == {"vm-a"}
    cutting.sweep()
    assert realm.asked == 2


def test_one_that_is_cut_off_in_the_midst_of_a_trade_stays_out() -> None:
    realm = FakeRealm()
    cutting, vm = Cutting(realm, Clock()), parse_principal("vm-a")

    with cutting.staying_out(vm):
        cutting.cut_off(vm, "a flood", "adapter-job-1")
        realm.mint(vm, "secret")

    assert realm.kept_out == {"vm-a"}


def test_one_whose_trade_fails_half_way_stays_out() -> None:
    realm = FakeRealm()
    cutting, vm = Cutting(realm, Clock()), parse_principal("vm-a")
    cutting.cut_off(vm, "a flood", "adapter-job-1")

    def trade() -> None:
        with cutting.staying_out(vm):
            realm.let_in(vm)
            raise BrokerError("the broker is away")

    with pytest.raises(BrokerError):
        trade()

    assert realm.kept_out == {"vm-a"}


@pytest.mark.parametrize("is_half_way", [False, True])
def test_one_that_a_sweep_finds_let_in_in_the_midst_of_a_trade_stays_out_and_for_as_long(is_half_way: bool) -> None:
    """A login that is made anew has no limits at first: the sweep then took its owner for let in by an operator."""
    realm, clock = FakeRealm(), Clock()
    cutting, vm = Cutting(realm, clock), parse_principal("vm-a")
    cutting.cut_off(vm, "a flood", "adapter-job-1")
    clock.now_s = OUT_S - 10

    with suppress(BrokerError), cutting.staying_out(vm):
        realm.lock_out(vm)
        cutting.sweep()
        if is_half_way:
            raise BrokerError("the broker is away")
        realm.mint(vm, "secret")

    assert realm.kept_out == {"vm-a"}
    cutting.sweep()
    assert realm.kept_out == {"vm-a"}
    clock.now_s = OUT_S + 1
    cutting.sweep()
    assert realm.kept_out == set()


def test_one_that_an_operator_let_in_is_out_no_more() -> None:
    realm, clock = FakeRealm(), Clock()
    cutting, vm = Cutting(realm, clock), parse_principal("vm-a")
    cutting.cut_off(vm, "a flood", "adapter-job-1")
    realm.let_in(vm)

    cutting.sweep()
    with cutting.staying_out(vm):
        realm.mint(vm, "secret")

    assert realm.kept_out == set()


def test_nobody_of_the_centre_is_cut_off() -> None:
    realm = FakeRealm()

    for name in ("adapter-job-1", "console-operator", "keys"):
        assert not Cutting(realm).cut_off(parse_principal(name), "a flood", "adapter-evil")

    assert realm.kept_out == set()


def line(message: str, at_s: float, level: int = logging.WARNING, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("broker", level, "", 0, message, None, None)
    record.__dict__.update(fields, created=at_s)
    return record


def test_lines_on_one_principal_are_bounded_and_those_left_out_counted() -> None:
    bounds = PrincipalBounds()

    let_through = [bounds.filter(line("message refused", 0.0, sender="vm-a")) for _ in range(3000)]
    later = line("message refused", 60.0, sender="vm-a")

    assert sum(let_through) == LINES
    assert bounds.filter(later)
    assert later.__dict__["left_out"] == 3000 - LINES
    assert bounds.filter(line("message refused", 0.0, sender="vm-b"))


def test_what_a_daemon_says_of_itself_and_of_its_work_is_never_left_out() -> None:
    bounds = PrincipalBounds()

    assert all(bounds.filter(line("ledger unavailable, waiting", 0.0)) for _ in range(100))
    assert all(bounds.filter(line("job ended", 0.0, logging.INFO, vm="vm-a")) for _ in range(100))
