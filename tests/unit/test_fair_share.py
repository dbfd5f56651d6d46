"""Owners take turns by share: pure, without a database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ledger import backlog, owners_backlog
from adapters.ledger.backlog import Backlog, Backlogs
from adapters.ledger.fair_share import FairShare, OwnerAccount
from adapters.ledger.matching import Fit, Free, Waiting, pair
from adapters.ledger.owners_backlog import FEW, MANY_REFUSED, MOST_IN_VAIN, OwnersBacklog
from tests.unit.test_matching import Anywhere, Jobs, Line, free, refusing

HOUR_MS = 3_600_000


def served(turns: FairShare, times: int, occupied: Callable[[str], int] = lambda owner: 1000) -> list[str]:
    """Give so many slots that are free together to whoever is next."""
    order = []
    for _ in range(times):
        owner = next(iter(turns))
        turns.serve(owner, occupied(owner))
        order.append(owner)
    return order


def lived(*accounts: OwnerAccount, lasting_s: dict[str, int], slots: int, hours: float) -> Counter[str]:
    """Have owners who always want more run jobs, so long each, in so many slots; give the cpu-seconds that each had."""
    known = {one.owner: one for one in accounts}
    ends: list[tuple[int, str]] = []
    had: Counter[str] = Counter()
    for now_s in range(0, int(hours * 3600), 5):
        running = Counter(owner for end_s, owner in ends if end_s > now_s)
        known = {owner: one.after(5000, 1000 * running[owner]) for owner, one in known.items()}
        had.update({owner: 5 * count for owner, count in running.items()})
        ends = [one for one in ends if one[0] > now_s]
        turns = FairShare(known.values())
        ends += [(now_s + lasting_s[owner], owner) for owner in served(turns, slots - len(ends))]
    return had


def part(had: Counter[str], owner: str) -> float:
    return had[owner] / had.total()


def test_slots_that_come_free_together_go_to_owners_of_one_share_in_turn() -> None:
    assert served(FairShare([OwnerAccount("a"), OwnerAccount("b"), OwnerAccount("c")]), 6) == ["a", "b", "c"] * 2


def test_an_owner_of_three_shares_has_three_times_as_much() -> None:
    assert Counter(served(FairShare([OwnerAccount("a", share=3), OwnerAccount("b")]), 400)) == {"a": 300, "b": 100}

    had = lived(OwnerAccount("a", share=3), OwnerAccount("b"), lasting_s={"a": 60, "b": 60}, slots=1, hours=4)
    assert part(had, "a") == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("slots", [1, 8])
def test_however_long_its_jobs_are_each_has_its_share_of_the_machines_time(slots: int) -> None:
    lasting_s = {"hours": 3600, "minutes": 60}

    had = lived(OwnerAccount("hours"), OwnerAccount("minutes"), lasting_s=lasting_s, slots=slots, hours=40)

    assert part(had, "hours") == pytest.approx(0.5, abs=0.06)


def test_what_occupies_many_cpus_counts_for_as_much() -> None:
    both = FairShare([OwnerAccount("eight"), OwnerAccount("one")])
    wide = served(both, 90, lambda owner: 8000 if owner == "eight" else 1000)

    assert Counter(wide) == {"eight": 10, "one": 80}


def test_who_was_away_and_who_had_much_are_equal_again_within_a_day() -> None:
    much, new = OwnerAccount("much", used=100 * HOUR_MS), OwnerAccount("new")

    first = lived(much, new, lasting_s={"much": 60, "new": 60}, slots=10, hours=1)
    assert part(first, "new") > 0.95
    later = lived(much.after(24 * HOUR_MS, 0), new, lasting_s={"much": 60, "new": 60}, slots=10, hours=4)
    assert part(later, "new") == pytest.approx(0.5, abs=0.06)


def test_what_nobody_else_wanted_is_not_charged() -> None:
    alone = OwnerAccount("a", occupied=10_000).after(24 * HOUR_MS, 10_000)

    assert alone.used <= 10 * 60_000


@given(
    shares=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    occupied=st.lists(st.integers(1000, 16_000), min_size=5, max_size=5),
    times=st.integers(1, 300),
)
def test_no_two_owners_who_can_always_go_are_further_apart_than_one_job(
    shares: list[int], occupied: list[int], times: int
) -> None:
    accounts = [OwnerAccount(str(n), share) for n, share in enumerate(shares)]

    counts = Counter(served(FairShare(accounts), times, lambda owner: occupied[int(owner)]))

    costs = {one.owner: Fraction(occupied[int(one.owner)], one.share) for one in accounts}
    had = [counts[owner] * cost for owner, cost in costs.items()]
    assert max(had) - min(had) <= max(costs.values()) + 1


def waiting(owner: str, number: int, rank: int = 0, shape: int = 1) -> Waiting:
    return Waiting(rank, number, shape, f"{owner}/j{number}.1", 1, 0, number, 0)


class Owners:
    """Waiting jobs of owners; counts whose were looked at."""

    def __init__(self, waits: Sequence[Waiting], fits: Callable[[int, int], bool] = lambda shape, offer: True) -> None:
        self.waits, self.fits, self.asked = waits, fits, list[str]()
        self.turns = FairShare([OwnerAccount(owner) for owner in sorted({job.owner for job in waits})])

    def backlog(self, vm: str = "", taken: set[int] | None = None) -> OwnersBacklog:
        return OwnersBacklog(self.turns, lambda owner: self.line(owner, taken), self.fitting, lambda job, free: 1000)

    def line(self, owner: str, taken: set[int] | None) -> Backlog:
        self.asked.append(owner)
        return Jobs([job for job in self.waits if job.owner == owner]).backlog(self.fits, taken)

    def fitting(self, offer: int) -> Collection[str]:
        return {job.owner for job in self.waits if self.fits(job.shape, offer)}

    def given(self, *slots: Free, pool: Anywhere | None = None) -> list[int]:
        return [job.number for job, _ in pair(Line(*slots), Backlogs(self.backlog), pool or Anywhere())]


def test_priority_counts_within_an_owner_alone() -> None:
    mass = [waiting("a", number, rank=-1000) for number in range(100)]
    owners = Owners([*mass, waiting("a", 200, rank=-1001), waiting("b", 900), waiting("b", 901, rank=-1)])

    assert owners.given(*(free(f"vm-{n}") for n in range(6))) == [200, 901, 0, 900, 1, 2]


def test_whose_jobs_fit_nothing_are_looked_at_once_and_keep_nobody_waiting() -> None:
    unfit = [waiting("a", number, shape=9) for number in range(50)]
    owners = Owners([*unfit, *(waiting("b", number) for number in range(100, 110))], lambda shape, offer: shape == 1)

    assert owners.given(*(free(f"vm-{n}") for n in range(3))) == [100, 101, 102]
    assert owners.asked == ["a", "b"]


def test_of_a_thousand_owners_of_whom_nothing_fits_few_are_looked_at() -> None:
    names = [f"site-{number:03}" for number in range(999)]
    owners = Owners(
        [*(waiting(name, n, shape=9) for n, name in enumerate(names)), waiting("z", 5000)], lambda s, o: s == 1
    )

    assert owners.given(free("vm-1"), free("vm-2")) == [5000]
    assert len(owners.asked) == MOST_IN_VAIN + 1


def test_jobs_for_which_a_vm_has_no_room_hide_no_others_from_it_and_one_of_a_shape_is_asked_for() -> None:
    large = [waiting("a", number) for number in range(1, 200)]
    owners = Owners([*large, waiting("a", 300, shape=2), waiting("b", 900, shape=3)])
    pool = refusing(*((number, "vm-1") for number in range(1, 200)))

    assert owners.given(free("vm-1"), free("vm-1"), pool=pool) == [300, 900]
    assert pool.asked == 3


def test_however_many_owners_have_no_room_on_a_vm_the_next_one_has_his_turn() -> None:
    large = [waiting(f"site-{n:03}", 1000 * n + k, shape=1000 * n + k) for n in range(20) for k in range(100)]
    owners = Owners([*large, waiting("z", 90_000, shape=7)])
    pool = refusing(*((job.number, "vm-1") for job in large))

    assert owners.given(free("vm-1"), pool=pool) == [90_000]
    assert pool.asked == MANY_REFUSED + (20 - 4) * FEW + 1


def test_a_vm_that_is_kept_free_for_one_owners_job_is_given_no_other_owners_after_it() -> None:
    owners = Owners([waiting("a", 1), waiting("b", 2)])
    pool = refusing((1, "vm-1"), word=Fit.WAIT)

    assert owners.given(free("vm-1"), free("vm-2"), pool=pool) == [1]


jobs_of_owners = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-1, 1), st.integers(1, 4)), max_size=25)


@given(
    jobs=jobs_of_owners,
    slots=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=15),
    fitting=st.sets(st.tuples(st.integers(1, 4), st.integers(1, 3))),
    no_room=st.sets(st.tuples(st.integers(1, 4), st.integers(1, 4))),
    passed=st.sampled_from([0, 2, 64]),
    in_vain=st.sampled_from([0, 1, 4]),
)
def test_each_slot_gets_the_first_job_that_it_may_have_of_the_first_owner_who_has_one(
    jobs: list[tuple[str, int, int]],
    slots: list[tuple[int, int]],
    fitting: set[tuple[int, int]],
    no_room: set[tuple[int, int]],
    passed: int,
    in_vain: int,
) -> None:
    """Beside one who looks at everything."""
    waits = sorted(waiting(owner, number, rank, shape) for number, (owner, rank, shape) in enumerate(jobs))
    line = [free(f"vm-{vm}-{number}", offer) for number, (offer, vm) in enumerate(slots)]
    vms = {one.vm: vm for one, (_, vm) in zip(line, slots, strict=True)}
    pool = Anywhere({(job.number, vm): Fit.NO for job in waits for vm in vms if (job.shape, vms[vm]) in no_room})

    def may_have(job: Waiting, slot: Free) -> bool:
        return (job.shape, slot.offer) in fitting and (job.shape, vms[slot.vm]) not in no_room

    turns, left, expected = FairShare([OwnerAccount(owner) for owner in sorted({j.owner for j in waits})]), waits[:], []
    for slot in line:
        of_owners = (next((j for j in left if j.owner == owner and may_have(j, slot)), None) for owner in turns)
        if job := next(filter(None, of_owners), None):
            left.remove(job)
            turns.serve(job.owner, 1000)
            expected.append((job.number, slot.vm))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog, "MOST_PASSED", passed)
        patch.setattr(owners_backlog, "MOST_IN_VAIN", in_vain)
        owners = Owners(waits, lambda shape, offer: (shape, offer) in fitting)
        made = [(job.number, slot.vm) for job, slot in pair(Line(*line), Backlogs(owners.backlog), pool)]

    assert made == expected
