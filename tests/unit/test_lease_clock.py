"""The lease clock of a whole service in simulated time: any number of adapters, frozen, killed and started again.

Adapters read beats and marks from one queue, hold them for a while, write them down and take their turns, each by its
own ``LeaseWatch``. What a frozen one holds the broker gives to others once it has missed its heartbeats.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from adapters.job.lease_watch import LeaseWatch
from adapters.ledger.clock import Reader, Readers

TICK_S, SWEEP_S, BEAT_S, LEASE_S, CUT_S = 0.5, 5.0, 15.0, 90.0, 30.0
GUESTS = 12
#: A guest's beat, by its number, or an adapter's mark, by that and its id.
Item = tuple[int, str, str]


class Adapter:
    """A job adapter: what it has in hand, and when it takes its next turn."""

    def __init__(self, name: str, now_s: float, chance: random.Random) -> None:
        self.name, self.chance = name, chance
        self.watch = LeaseWatch(name, most_gap_s=3 * SWEEP_S)
        self.hand: list[Item] = []
        self.next_s = now_s + chance.uniform(0, SWEEP_S)
        self.frozen_s: float | None = None
        self.is_linked = True


class Service:
    """Everything, moved on tick by tick; ``clock_s`` is the lease clock."""

    def __init__(self, adapters: int, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.now_s = self.clock_s = 0.0
        self.kept_by = ""
        self.rows: dict[str, Reader] = {}
        self.queue: deque[Item] = deque()
        self.adapters: dict[str, Adapter] = {}
        self.has_broker = True
        self.leases = dict.fromkeys(range(GUESTS), LEASE_S)
        self.expired: set[int] = set()
        self.silent: set[int] = set()
        self.marks = 0
        for number in range(adapters):
            self.start(f"adapter-{number}")

    def start(self, name: str) -> None:
        self.adapters[name] = Adapter(name, self.now_s, self.chance)
        self.rows[name] = Reader(0, "")
        self.kept_by = "" if self.kept_by == name else self.kept_by

    def freeze(self, name: str) -> None:
        self.adapters[name].frozen_s = self.now_s

    def thaw(self, name: str) -> None:
        self.adapters[name].frozen_s = None
        self.adapters[name].is_linked = True

    def kill(self, name: str) -> None:
        self._give_back(self.adapters.pop(name))

    def keeper(self) -> str:
        return self.kept_by

    def run(self, seconds: float) -> float:
        """Let time pass; gives how far the lease clock went."""
        before_s, ends_s = self.clock_s, self.now_s + seconds
        while self.now_s < ends_s:
            self._tick()
        return self.clock_s - before_s

    def _tick(self) -> None:
        self.now_s += TICK_S
        if self.has_broker:
            self._beat()
            self._deliver()
        for adapter in list(self.adapters.values()):
            if adapter.frozen_s is not None:
                self._cut(adapter)
            elif self.now_s >= adapter.next_s:
                self._sweep(adapter)
            elif self.chance.random() < 0.5:
                self._write_down(adapter)
        self.expired |= {guest for guest, until_s in self.leases.items() if until_s < self.clock_s}

    def _beat(self) -> None:
        said = [guest for guest in range(GUESTS) if (self.now_s - guest) % BEAT_S < TICK_S and guest not in self.silent]
        self.queue.extend((guest, "", "") for guest in said)

    def _deliver(self) -> None:
        readers = [one for one in self.adapters.values() if one.is_linked]
        while self.queue and readers:
            self.chance.choice(readers).hand.append(self.queue.popleft())

    def _cut(self, adapter: Adapter) -> None:
        assert adapter.frozen_s is not None
        if adapter.is_linked and self.now_s - adapter.frozen_s > CUT_S:
            adapter.is_linked = False
            self._give_back(adapter)

    def _give_back(self, adapter: Adapter) -> None:
        self.queue.extendleft(reversed(adapter.hand))
        adapter.hand = []

    def _write_down(self, adapter: Adapter) -> None:
        for guest, owner, mark in adapter.hand:
            if not owner:
                self.leases[guest] = self.clock_s + LEASE_S
            elif owner in self.rows:
                self.rows[owner] = self.rows[owner]._replace(mark=mark)
        adapter.hand = []

    def _sweep(self, adapter: Adapter) -> None:
        adapter.next_s = self.now_s + SWEEP_S + self.chance.uniform(0, 1)
        self._write_down(adapter)
        row = self.rows.get(adapter.name, Reader(0, ""))
        self.rows[adapter.name] = row._replace(turns=row.turns + 1)
        found = Readers(self.kept_by, dict(self.rows), int(self.clock_s * 1000))
        advice = adapter.watch.look(found, self.now_s)
        for name in advice.gone:
            del self.rows[name]
        if advice.takes_over and self.kept_by == found.kept_by:
            self.kept_by = adapter.name
        elif advice.step_s:
            self.clock_s += int(advice.step_s * 1000) / 1000
        self._put_mark(adapter)

    def _put_mark(self, adapter: Adapter) -> None:
        self.marks += 1
        mark = f"m{self.marks}"
        adapter.watch.sent(mark, self.now_s)
        if self.has_broker and adapter.is_linked:
            self.queue.append((-1, adapter.name, mark))
        else:
            adapter.watch.not_taken(mark)


def names(service: Service) -> Sequence[str]:
    return list(service.adapters)


def other_than_the_keeper(service: Service) -> str:
    return next(name for name in service.adapters if name != service.kept_by)


@pytest.mark.parametrize("adapters", [1, 2, 5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_any_number_of_adapters_the_clock_runs_as_real_time_does(adapters: int, seed: int) -> None:
    service = Service(adapters, seed)
    service.run(60)

    went_s = service.run(600)

    assert went_s == pytest.approx(600, rel=0.05)
    assert service.expired == set()


Trouble = Callable[[Service], None]


def frozen_for_good(service: Service) -> None:
    service.freeze(other_than_the_keeper(service))


def keeper_frozen_for_good(service: Service) -> None:
    service.freeze(service.kept_by)


def keeper_killed(service: Service) -> None:
    service.kill(service.kept_by)


def keeper_killed_and_started_again_many_times(service: Service) -> None:
    for _ in range(10):
        keeper = service.kept_by
        service.kill(keeper)
        service.run(2)
        service.start(keeper)
        service.run(58)


def frozen_for_a_while_each(service: Service) -> None:
    for name in names(service)[1:]:
        service.freeze(name)
        service.run(20)
        service.thaw(name)
        service.run(20)


def keeper_without_a_broker(service: Service) -> None:
    service.adapters[service.kept_by].is_linked = False
    service._give_back(service.adapters[service.kept_by])


def all_but_one_killed(service: Service) -> None:
    for name in names(service)[1:]:
        service.kill(name)


@pytest.mark.parametrize("adapters", [2, 5])
@pytest.mark.parametrize(
    "trouble",
    [
        frozen_for_good,
        keeper_frozen_for_good,
        keeper_killed,
        keeper_killed_and_started_again_many_times,
        frozen_for_a_while_each,
        keeper_without_a_broker,
        all_but_one_killed,
    ],
)
def test_some_that_are_frozen_or_killed_do_not_slow_the_clock_nor_cost_a_living_guest_its_lease(
    adapters: int, trouble: Trouble
) -> None:
    service = Service(adapters)
    service.run(60)
    began_s, clock_s = service.now_s, service.clock_s

    trouble(service)
    service.run(600)

    assert service.clock_s - clock_s == pytest.approx(service.now_s - began_s, rel=0.05)
    assert service.expired == set()


def no_broker(service: Service) -> None:
    service.has_broker = False


def all_frozen(service: Service) -> None:
    for name in names(service):
        service.freeze(name)


@pytest.mark.parametrize("adapters", [1, 2, 5])
@pytest.mark.parametrize("trouble", [no_broker, all_frozen])
def test_the_clock_stands_while_nobody_serves_and_no_guest_pays_for_that_time(adapters: int, trouble: Trouble) -> None:
    service = Service(adapters)
    service.run(60)

    trouble(service)
    stood_s = service.run(1800)
    service.has_broker = True
    for name in names(service):
        service.thaw(name)
    after_s = service.run(300)

    assert stood_s <= 20
    assert stood_s + after_s <= 300 + 20
    assert service.expired == set()


@pytest.mark.parametrize("adapters", [1, 2, 5])
def test_a_guest_that_is_silent_loses_its_lease_in_real_time(adapters: int) -> None:
    service = Service(adapters)
    service.run(60)
    service.silent.add(3)
    began_s = service.now_s

    while not service.expired:
        service.run(TICK_S)

    assert service.expired == {3}
    assert LEASE_S - BEAT_S <= service.now_s - began_s <= LEASE_S + 30
