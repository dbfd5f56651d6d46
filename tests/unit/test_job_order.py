"""Which attempt of a host's own job counts, whatever its guest says and whenever either of the two went down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from host_agent.errors import CentreUnreadable
from host_agent.own_centre.guest_job import GuestJob
from host_agent.own_centre.job_order import LOOKS, MOST_LOST, JobOrder
from schemas.jobs import Holding, JobCompletion, Outcome, Phase

JOB = GuestJob(ref="local/task.1", executable="x")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def order(tmp_path: Path, clock: Clock) -> JobOrder:
    return JobOrder(tmp_path / "order.json", JOB, clock)


def holds(*attempts: int, phase: Phase = Phase.RUNNING, job: str = JOB.ref) -> list[Holding]:
    return [Holding(job=job, attempt=attempt, phase=phase) for attempt in attempts]


def ended(attempt: int, outcome: Outcome, **more: Any) -> JobCompletion:
    return JobCompletion(job=JOB.ref, attempt=attempt, outcome=outcome, **more)


def again(order: JobOrder, clock: Clock) -> JobOrder:
    """The same after a restart of the host's agent."""
    return JobOrder(order._path, JOB, clock)


def test_it_is_handed_out_once_and_again_when_the_guest_has_said_twice_that_it_is_not_there(
    order: JobOrder, clock: Clock
) -> None:
    assert order.is_due()
    assert order.hand_out() == 1
    assert not order.is_due()
    order.look([], counts=False)
    assert not order.is_due()
    for _ in range(LOOKS):
        order.look([], counts=True)
    assert not order.is_due(), "not at once"
    clock.now += 1
    assert order.is_due()
    assert order.hand_out() == 2


def test_an_attempt_that_came_back_with_the_memory_of_an_earlier_time_is_the_one(order: JobOrder, clock: Clock) -> None:
    order.hand_out()
    for _ in range(LOOKS):
        order.look([], counts=True)
    order.is_due()
    order.hand_out()

    assert order.look(holds(1), counts=True) == []
    assert order.attempt == 1
    assert again(order, clock).attempt == 1
    assert order.conclude(ended(1, Outcome.DONE))
    assert order.end is not None


def test_one_that_is_lost_and_waits_for_its_answer_is_not_taken_for_one_at_work(order: JobOrder, clock: Clock) -> None:
    order.hand_out()
    assert order.conclude(ended(1, Outcome.LOST, cause="restarted"))
    clock.now += 1
    assert order.is_due()
    assert order.hand_out() == 2
    order.look(holds(1, phase=Phase.ASSIGNED) + holds(2), counts=True)
    assert order.attempt == 2
    assert order.conclude(ended(2, Outcome.FAILED, exit_status=3))
    assert order.end is not None
    assert order.end.exit_status == 3


def test_numbers_are_used_once_also_after_one_came_back(order: JobOrder, clock: Clock) -> None:
    order.hand_out()
    order.conclude(ended(1, Outcome.LOST))
    clock.now += 1
    order.is_due()
    order.hand_out()
    order.look(holds(1), counts=True)  # the VM was brought back to when 1 was at work
    order.conclude(ended(1, Outcome.LOST))
    clock.now += 10
    assert order.is_due()
    assert order.hand_out() == 3


def test_what_a_guest_was_told_to_stop_does_not_end_the_job(order: JobOrder, clock: Clock) -> None:
    order.hand_out()
    assert order.conclude(ended(1, Outcome.CANCELLED, cause="superseded"))
    assert order.end is None
    clock.now += 1
    assert order.is_due()


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.RETURNED, None])
def test_losses_are_waited_after_longer_each_time_and_not_for_ever(
    order: JobOrder, clock: Clock, outcome: Outcome | None
) -> None:
    waits = []
    while order.end is None:
        began = clock.now
        while not order.is_due():
            clock.now += 1
            if order.end is not None:
                break
        else:
            waits.append(clock.now - began)
            number = order.hand_out()
            for _ in range(LOOKS if outcome is None else 0):
                order.look([], counts=True)
            if outcome is not None:
                order.conclude(ended(number, outcome, cause="no room"))
        assert len(waits) <= MOST_LOST

    assert order.end.outcome is Outcome.LOST
    assert "lost 20 times" in order.end.cause
    assert waits[:4] == [0, 1, 2, 4]
    assert waits[-1] == 300


def test_numbers_that_were_never_handed_out_and_jobs_of_others_are_of_no_use(order: JobOrder) -> None:
    order.hand_out()

    stop = order.look(holds(1, 2**62) + holds(1, job="other/task.1"), counts=True)

    assert [(one.job, one.attempt) for one in stop] == [(JOB.ref, 2**62), ("other/task.1", 1)]
    assert not order.conclude(ended(2**62, Outcome.DONE))
    assert not order.conclude(JobCompletion(job="other/task.1", attempt=1, outcome=Outcome.DONE))
    assert order.attempt == 1


def test_one_that_has_ended_is_never_handed_out_and_ends_once(order: JobOrder, clock: Clock) -> None:
    order.hand_out()
    assert order.conclude(ended(1, Outcome.DONE, exit_status=0))
    after = again(order, clock)

    assert not after.is_due()
    assert not after.conclude(ended(1, Outcome.FAILED))
    assert [one.attempt for one in after.look(holds(1), counts=True)] == [1]
    assert after.end == order.end


def test_a_file_of_another_job_is_nothing_and_a_damaged_one_is_told(order: JobOrder, clock: Clock) -> None:
    order.hand_out()
    assert JobOrder(order._path, GuestJob(ref="local/task.2", executable="x"), clock).attempt == 0
    order._path.write_text("{")
    with pytest.raises(CentreUnreadable, match="remove it, and the job begins anew"):
        again(order, clock)
