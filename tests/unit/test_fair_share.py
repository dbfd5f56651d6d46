"""Owners take turns by share: pure, without a database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from adapters.ledger.backlog import MOST_REFUSED, Backlog, Backlogs
from adapters.ledger.fair_share import LEAST_MS, MOST_MS, FairShare, OwnerAccount
from adapters.ledger.matching import Fit, Free, Waiting, pair
from adapters.ledger.owners_backlog import MOST_IN_VAIN, MOST_REFUSED_IN_ALL, OwnersBacklog
from tests.unit.test_matching import Anywhere, Jobs, Line, free, refusing


def served(turns: FairShare, times: int, cpus: Callable[[str], int] = lambda owner: 1) -> list[str]:
    """Serve whoever is next, so often."""
    order = []
    for _ in range(times):
        owner = next(iter(turns))
        turns.serve(owner, cpus(owner))
        order.append(owner)
    return order


def test_owners_of_one_share_take_turns() -> None:
    assert served(FairShare([OwnerAccount("a"), OwnerAccount("b"), OwnerAccount("c")]), 6) == ["a", "b", "c"] * 2


def test_an_owner_of_three_shares_is_served_three_times_as_often() -> None:
    assert Counter(served(FairShare([OwnerAccount("a", share=3), OwnerAccount("b")]), 400)) == {"a": 300, "b": 100}


def test_what_takes_long_or_has_many_cpus_counts_for_as_much() -> None:
    slow = [OwnerAccount("days", takes_ms=3_600_000), OwnerAccount("minutes", takes_ms=60_000)]
    assert Counter(served(FairShare(slow), 610)) == {"days": 10, "minutes": 600}

    wide = served(
        FairShare([OwnerAccount("eight"), OwnerAccount("one")]), 90, lambda owner: 8 if owner == "eight" else 1
    )
    assert Counter(wide) == {"eight": 10, "one": 80}


def test_of_whom_nothing_is_known_is_taken_to_be_as_slow_as_the_slowest() -> None:
    known = [OwnerAccount("days", takes_ms=3_600_000), OwnerAccount("minutes", takes_ms=60_000), OwnerAccount("new")]

    assert Counter(served(FairShare(known), 62)) == {"days": 1, "minutes": 60, "new": 1}


def test_nobody_saves_up_while_he_has_nothing_that_can_go() -> None:
    turns = FairShare([OwnerAccount("a", passed=9_000_000), OwnerAccount("back", passed=5)], at=9_000_000)

    assert served(turns, 4) == ["a", "back", "a", "back"]


def test_who_was_served_much_in_advance_waits_until_the_others_have_caught_up() -> None:
    turns = FairShare([OwnerAccount("a", passed=600_000), OwnerAccount("b")])

    assert served(turns, 12) == [*"bbbbbbbbbb", "a", "b"]
    assert turns.at == 600_000


@given(
    shares=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    takes=st.lists(st.integers(LEAST_MS, 1_000_000), min_size=5, max_size=5),
    cpus=st.lists(st.integers(1, 16), min_size=5, max_size=5),
    times=st.integers(1, 300),
)
def test_no_two_owners_who_can_always_go_are_further_apart_than_one_job(
    shares: list[int], takes: list[int], cpus: list[int], times: int
) -> None:
    accounts = [
        OwnerAccount(str(n), share, 0, took) for n, (share, took) in enumerate(zip(shares, takes, strict=False))
    ]
    turns = FairShare(accounts)

    counts = Counter(served(turns, times, lambda owner: cpus[int(owner)]))

    costs = {one.owner: Fraction(one.takes_ms * cpus[int(one.owner)], one.share) for one in accounts}
    had = [counts[owner] * cost for owner, cost in costs.items()]
    assert max(had) - min(had) <= max(costs.values()) + times


def test_an_average_follows_what_jobs_take_and_believes_no_single_one() -> None:
    account = OwnerAccount("a").learnt(60_000)
    assert account.takes_ms == 60_000

    assert account.learnt(MOST_MS).takes_ms < 2 * 60_000
    for _ in range(100):
        account = account.learnt(5_000)
    assert 5_000 <= account.takes_ms < 6_000
    assert OwnerAccount("a").learnt(-5).takes_ms == LEAST_MS
    assert OwnerAccount("a").learnt(MOST_MS * 99).takes_ms == MOST_MS


def waiting(owner: str, number: int, rank: int = 0, shape: int = 1) -> Waiting:
    return Waiting(rank, number, shape, f"{owner}/j{number}.1", 1, 0, number, 0)


class Owners:
    """Waiting jobs of owners; counts whose were looked at."""

    def __init__(self, waits: Sequence[Waiting], fits: Callable[[int, int], bool] = lambda shape, offer: True) -> None:
        self.waits, self.fits, self.asked = waits, fits, list[str]()
        self.turns = FairShare([OwnerAccount(owner) for owner in sorted({job.owner for job in waits})])

    def backlog(self, vm: str = "", taken: set[int] | None = None) -> OwnersBacklog:
        return OwnersBacklog(self.turns, lambda owner: self.line(owner, taken), self.fitting, lambda shape: 1)

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


def test_whose_jobs_fit_nothing_are_looked_at_once_and_their_owner_saves_up_nothing() -> None:
    unfit = [waiting("a", number, shape=9) for number in range(50)]
    owners = Owners([*unfit, *(waiting("b", number) for number in range(100, 110))], lambda shape, offer: shape == 1)

    assert owners.given(*(free(f"vm-{n}") for n in range(3))) == [100, 101, 102]
    assert owners.asked == ["a", "b"]
    assert FairShare(owners.turns.accounts(), owners.turns.at).at > 0


def test_of_a_thousand_owners_of_whom_nothing_fits_few_are_looked_at() -> None:
    names = [f"site-{number:03}" for number in range(999)]
    owners = Owners(
        [*(waiting(name, n, shape=9) for n, name in enumerate(names)), waiting("z", 5000)], lambda s, o: s == 1
    )

    assert owners.given(free("vm-1"), free("vm-2")) == [5000]
    assert len(owners.asked) == MOST_IN_VAIN + 1


def test_jobs_of_one_owner_that_a_vm_may_not_have_hide_no_others_from_it() -> None:
    owners = Owners([*(waiting("a", number) for number in range(1, 200)), waiting("b", 900)])
    pool = refusing(*((number, "vm-1") for number in range(1, 200)))

    assert owners.given(free("vm-1"), pool=pool) == [900]
    assert pool.asked == MOST_REFUSED + 1


def test_many_owners_whose_jobs_a_vm_may_not_have_cost_one_slot_so_much_and_no_more() -> None:
    owners = Owners([waiting(f"site-{n:03}", 1000 * n + k) for n in range(20) for k in range(100)])
    pool = refusing(*((job.number, "vm-1") for job in owners.waits))

    assert owners.given(free("vm-1"), pool=pool) == []
    assert pool.asked == MOST_REFUSED_IN_ALL


def test_a_vm_that_is_kept_free_for_one_owners_job_is_given_no_other_owners_after_it() -> None:
    owners = Owners([waiting("a", 1), waiting("b", 2)])
    pool = refusing((1, "vm-1"), word=Fit.WAIT)

    assert owners.given(free("vm-1"), free("vm-2"), pool=pool) == [1]
