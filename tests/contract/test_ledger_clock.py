"""The lease clock in the ledger: it neither steps with the wall clock nor goes on by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from adapters.job.lease_watch import LeaseWatch
from adapters.ledger import clock, leases, timetable
from adapters.ledger.engine import Ledger
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import Tx
from schemas.jobs import Holding, JobAssign, JobBeat, LeaseMark, Phase
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import Desk, cluster, url

__all__ = ["cluster", "url"]

SWEEP_S = 5.0


class Adapter:
    """A job adapter's sweeps on a ledger of its own connection, without a broker: its monotonic time is given."""

    def __init__(self, url: str, name: str, wall: Callable[[], int]) -> None:
        self.ledger = Ledger(url, instance=name, clock=wall, policy=Policy(first_retry_s=0))
        self.ledger.open()
        self.watch = LeaseWatch(name, most_gap_s=3 * SWEEP_S)
        #: Marks that are under way.
        self.marks: list[LeaseMark] = []

    def sweep(self, now_s: float) -> None:
        def turn(tx: Tx) -> clock.Readers:
            clock.take_turn(tx, clock.JOB)
            return clock.readers(tx)

        found = self.ledger.write(turn)
        advice = self.watch.look(found, now_s)

        def follow(tx: Tx) -> None:
            clock.leave(tx, advice.gone)
            if advice.takes_over:
                clock.keep(tx, found.kept_by)
            clock.go_on(tx, int(advice.step_s * 1000))
            timetable.keep(tx)

        self.ledger.write(follow)
        self.marks.append(LeaseMark())
        self.watch.sent(self.marks[-1].id, now_s)

    def read_marks(self, reader: Adapter | None = None) -> None:
        marks, self.marks = [(self.ledger.instance, mark) for mark in self.marks], []
        (reader or self).ledger.write_lightly(lambda tx: clock.mark_all(tx, marks))

    def lease_now_ms(self) -> int:
        return self.ledger.read(lambda tx: tx.lease_now_ms)

    def close(self) -> None:
        self.ledger.close()


class Centre:
    """A desk whose lease clock is the ledger's own, and adapters that let it go on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.desk = Desk(url)
        self.desk.ledger.close()
        self.desk.ledger = Ledger(url, instance="adapter-desk", clock=lambda: self.desk.now_ms, policy=self.desk.policy)
        self.desk.ledger.open()
        self.now_s = 0.0
        self.adapters: list[Adapter] = []

    def adapter(self, name: str) -> Adapter:
        self.adapters.append(Adapter(self.url, name, lambda: self.desk.now_ms))
        return self.adapters[-1]

    def sweep(self, *adapters: Adapter, times: int = 1, reads: bool = True) -> None:
        for _ in range(times):
            self.now_s += SWEEP_S
            self.desk.pass_s(SWEEP_S)
            for adapter in adapters:
                adapter.sweep(self.now_s)
                if reads:
                    adapter.read_marks()

    def close(self) -> None:
        for ledger in (self.desk.ledger, *(adapter.ledger for adapter in self.adapters)):
            ledger.close()


@pytest.fixture
def centre(url: str) -> Iterator[Centre]:
    made = Centre(url)
    yield made
    made.close()


def running(centre: Centre, vm: str = "vm-1") -> JobAssign:
    """A job that its guest has begun."""
    desk = centre.desk
    desk.submit(f"job-of-{vm}")
    job = desk.start(vm)
    desk.beat(job, vm=vm)
    return job


def state(centre: Centre, vm: str = "vm-1") -> JobState:
    return centre.desk.state(f"job-of-{vm}")


def test_a_silent_guest_loses_its_job_after_its_lease_by_the_clock(centre: Centre) -> None:
    adapter = centre.adapter("adapter-a")
    centre.sweep(adapter, times=3)
    running(centre)
    began_ms = adapter.lease_now_ms()

    sweeps = 0
    while state(centre) is JobState.RUNNING:
        centre.sweep(adapter)
        sweeps += 1

    assert adapter.lease_now_ms() - began_ms > 90_000
    assert 18 <= sweeps <= 22


@pytest.mark.parametrize("step_s", [120, -120, 86400, -86400])
def test_a_step_of_the_wall_clock_expires_nothing_and_keeps_nothing_alive(centre: Centre, step_s: int) -> None:
    adapter = centre.adapter("adapter-a")
    centre.sweep(adapter, times=3)
    jobs = [running(centre, f"vm-{n}") for n in range(20)]

    centre.desk.pass_s(step_s)
    centre.sweep(adapter, times=3)
    after_the_step = centre.desk.states()
    centre.sweep(adapter, times=25)

    assert after_the_step == {"running": len(jobs)}
    assert centre.desk.states() == {"submitted": len(jobs)}


def test_an_adapter_that_slept_expires_nothing(centre: Centre) -> None:
    adapter = centre.adapter("adapter-a")
    centre.sweep(adapter, times=3)
    job = running(centre)

    centre.now_s += 3600
    centre.sweep(adapter, times=3)
    slept = state(centre)
    centre.desk.beat(job)
    centre.sweep(adapter, times=10)

    assert (slept, state(centre)) == (JobState.RUNNING, JobState.RUNNING)


def test_while_beats_wait_to_be_read_nothing_expires_and_once_they_are_the_silent_do(centre: Centre) -> None:
    adapter = centre.adapter("adapter-a")
    centre.sweep(adapter, times=3)
    alive, _silent = running(centre, "vm-1"), running(centre, "vm-2")

    centre.sweep(adapter, times=100, reads=False)
    in_the_backlog = centre.desk.states()
    centre.desk.beat(alive, vm="vm-1")
    adapter.read_marks()
    for _ in range(25):
        centre.sweep(adapter)
        centre.desk.beat(alive, vm="vm-1")

    assert in_the_backlog == {"running": 2}
    assert (state(centre, "vm-1"), state(centre, "vm-2")) == (JobState.RUNNING, JobState.SUBMITTED)


def test_420_beats_together_each_period_do_not_keep_a_silent_guest_alive(centre: Centre) -> None:
    adapter = centre.adapter("adapter-a")
    centre.sweep(adapter, times=3)
    running(centre)
    crowd = [(f"vm-c{n}", JobBeat(generation=1, holding=[])) for n in range(420)]

    for _ in range(9):
        centre.desk.ledger.write_lightly(lambda tx: leases.renew_all(tx, crowd))
        centre.sweep(adapter, times=3)

    assert state(centre) is JobState.SUBMITTED


def test_what_a_second_adapter_holds_unread_is_not_expired_by_the_first(centre: Centre) -> None:
    first, second = centre.adapter("adapter-a"), centre.adapter("adapter-b")
    centre.sweep(first, second, times=6)
    job = running(centre)
    held = JobBeat(generation=1, holding=[Holding(job=job.job, attempt=1, phase=Phase.RUNNING)])
    centre.sweep(first, second, times=4)

    centre.sweep(first, times=11)
    frozen = state(centre)
    second.ledger.write_lightly(lambda tx: leases.renew_all(tx, [("vm-1", held)]))
    centre.sweep(first, second, times=12)

    assert (frozen, state(centre)) == (JobState.RUNNING, JobState.RUNNING)


def test_when_the_keeper_of_the_clock_dies_another_lets_it_go_on(centre: Centre) -> None:
    first, second = centre.adapter("adapter-a"), centre.adapter("adapter-b")
    centre.sweep(first, second, times=6)
    running(centre)
    keeper = centre.desk.ledger.read(clock.readers).kept_by
    survivor = first if keeper == "adapter-b" else second

    centre.sweep(survivor, times=50)

    assert state(centre) is JobState.SUBMITTED


def test_an_adapter_that_signs_off_holds_nothing_up(centre: Centre) -> None:
    first, second = centre.adapter("adapter-a"), centre.adapter("adapter-b")
    centre.sweep(first, second, times=6)
    keeper = centre.desk.ledger.read(clock.readers).kept_by
    leaves, stays = (first, second) if keeper == "adapter-a" else (second, first)
    leaves.ledger.write(lambda tx: clock.leave(tx, [tx.instance]))
    before_ms = stays.lease_now_ms()

    centre.sweep(stays, times=8)

    assert stays.lease_now_ms() - before_ms >= 25_000


def test_a_wait_a_rest_and_a_silence_do_not_end_by_a_step_of_the_wall_clock(centre: Centre) -> None:
    adapter = centre.adapter("adapter-a")
    centre.sweep(adapter, times=3)
    centre.desk.ask("vm-1")

    centre.desk.pass_s(86400)
    centre.sweep(adapter)
    centre.desk.submit("one")

    assert [job.target for job in centre.desk.assigned()] == ["vm-1"]
