"""No guest has more than its VM can have, nor keeps anything for ever, whatever it says; slow ones lose nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import update

from adapters.ledger import leases, requests, tables
from adapters.ledger.lanes import JOBS_OF_A_CPU, SLOTS_OF_A_CPU
from adapters.ledger.policy import Policy
from schemas.description import Input
from schemas.jobs import MOST_LANES, Holding, JobAssign, JobBeat, JobRequest, JobStop, Machine, Outcome, Phase
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import SMALL, Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]

WALL_S, GRACE_S = 3600.0, 10.0
#: Slot numbers that the wire has.
ALL = range(1024)


@pytest.fixture
def slow(url: str) -> Iterator[Desk]:
    """A ledger whose files may take half an hour."""
    made = Desk(url, policy=Policy(first_retry_s=0, staging_s=1800))
    yield made
    made.ledger.close()


def ask_for(desk: Desk, slots: range, machine: Machine = SMALL, ahead: int = 0, vm: str = "vm-1") -> None:
    """Ask for each slot by a message of its own, each time to begin at once."""
    messages = [(vm, JobRequest(id=desk.id(), slot=slot, machine=machine, generation=1, ahead=ahead)) for slot in slots]
    desk.write(lambda tx: requests.ask_all(tx, messages))


def beat_on(desk: Desk, *jobs: JobAssign, seconds: float, phase: Phase = Phase.RUNNING) -> list[int]:
    """Let time pass while a guest says that all of them live; gives what was told to stop."""
    stops = []
    for _ in range(int(seconds / 60)):
        desk.pass_s(60)
        stops += [ref.attempt for ref in desk.beat(*jobs, phase=phase).stop]
        desk.keep_time()
    return stops


def test_a_vm_of_one_cpu_that_asks_for_1024_lanes_has_no_more_than_one_cpu_can(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("many", array=1100)

    ask_for(desk, ALL)

    assert len(desk.assigned()) == MOST_LANES
    assert desk.counts["request_beyond"] == len(ALL) - MOST_LANES


def test_nor_by_claiming_slots_cpus_or_by_asking_again_and_again(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("many", array=1100)
    boasting = msgspec.structs.replace(SMALL, cpus=1 << 30, slots=1024)

    ask_for(desk, ALL, boasting)
    at_first = Counter(job.slot for job in desk.assigned())
    for _ in range(6):
        desk.beat(*desk.assigned())
        ask_for(desk, ALL)
    for _ in range(20):
        desk.beat(*desk.assigned())
        desk.ask("vm-1", 0, holding=desk.assigned())

    assert len(at_first) == SLOTS_OF_A_CPU
    assert len(desk.assigned()) <= JOBS_OF_A_CPU


def test_a_vm_that_no_host_has_reported_is_bounded_all_the_same(desk: Desk) -> None:
    desk.submit("many", array=1200)

    ask_for(desk, ALL, msgspec.structs.replace(SMALL, cpus=1 << 30, slots=1024))

    assert 0 < len(desk.assigned()) <= 64


def test_honest_slots_with_all_their_lanes_are_served(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", cpus=4))
    desk.submit("many", array=300)
    machine = msgspec.structs.replace(SMALL, cpus=4, slots=4)

    for slot in range(4):
        lanes = list(range(slot, 4 * MOST_LANES, 4))
        desk.ask("vm-1", lanes[0], machine, more=lanes[1:])

    assert len(desk.assigned()) == 4 * MOST_LANES


@pytest.mark.parametrize("order", [ALL[:40], ALL[40:0:-1]])
def test_who_says_of_each_lane_that_it_begins_at_once_is_not_believed(desk: Desk, order: range) -> None:
    for slot in order:
        ask_for(desk, range(slot, slot + 1))
    desk.pass_s(1)
    for number in range(2, 7):
        desk.ask(f"vm-{number}")

    desk.submit("many", array=6)

    assert Counter(job.target for job in desk.assigned()) == {f"vm-{number}": 1 for number in range(1, 7)}


def test_who_has_jobs_and_says_that_more_begin_at_once_is_not_believed(desk: Desk) -> None:
    desk.submit("first", array=3)
    for slot in range(3):
        ask_for(desk, range(slot, slot + 1))
    desk.beat(*desk.assigned())
    ask_for(desk, range(3, 4))
    desk.pass_s(1)
    desk.ask("vm-2")

    desk.submit("one")

    assert desk.assigned()[-1].target == "vm-2"


def test_an_idle_slot_that_says_again_that_it_begins_at_once_is_believed(desk: Desk) -> None:
    desk.ask("vm-1", more=[1, 2, 3])
    desk.submit("one")
    desk.complete(desk.assigned()[0])
    desk.pass_s(1)
    desk.write(lambda tx: requests.ask(tx, "vm-2", msgspec.structs.replace(desk.request(), ahead=1)))
    desk.ask("vm-1", slot=1)

    desk.submit("two")

    assert desk.assigned()[-1].target == "vm-1"


def test_a_guest_that_beats_for_ever_loses_its_job_when_its_time_is_over(slow: Desk) -> None:
    slow.report("host-1", status("vm-1"))
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")

    before = beat_on(slow, job, seconds=WALL_S + 1800)
    stops = beat_on(slow, job, seconds=300)

    record = slow.show("one")
    assert (before, set(stops)) == ([], {1})
    assert (record.job.state, record.job.losses, record.attempts[0].state) == (JobState.SUBMITTED, 1, "lost")
    assert record.attempts[0].cause == (
        "vm-1 has not ended it in the time that its wall time, its grace and its files may take"
    )
    assert [stop.attempt for stop in slow.of_kind(JobStop)] == [1]
    assert slow.start("vm-2").attempt == 2


@pytest.fixture
def careful(url: str) -> Iterator[Desk]:
    """A ledger with the waits that operators have."""
    made = Desk(url, policy=Policy(staging_s=1800))
    yield made
    made.ledger.close()


@pytest.mark.parametrize(
    ("phase", "outcome"), [(Phase.RUNNING, Outcome.CANCELLED), (Phase.RUNNING, Outcome.LOST), (Phase.ASSIGNED, None)]
)
def test_the_end_that_its_stop_provokes_does_not_bring_the_job_back_at_once(
    careful: Desk, phase: Phase, outcome: Outcome | None
) -> None:
    careful.submit("one", wall_time_s=60.0, grace_s=GRACE_S)
    job = careful.start("vm-1")
    careful.ask("vm-2")
    careful.withdraw("vm-2", [0])
    while not careful.of_kind(JobStop):
        careful.pass_s(5)
        careful.beat(job, phase=phase)
        careful.beat(vm="vm-2")
        careful.keep_time()

    answer = careful.complete(job, outcome or Outcome.RETURNED, cause="superseded", request=careful.request())

    assert answer.counted is (phase is Phase.RUNNING)
    assert len(careful.assigned()) == 1, "it waits, and is for another VM than the one that kept it"
    assert (careful.state("one"), careful.counts.get("jobs_requeued", 0)) == (JobState.SUBMITTED, 0)


def test_each_time_that_it_comes_back_a_job_has_the_rest_of_its_term_and_no_new_one(slow: Desk) -> None:
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")
    slow.beat(job, phase=Phase.STAGE_IN)
    for _ in range(6):
        beat_on(slow, job, seconds=1200, phase=Phase.STAGE_IN)
        slow.pass_s(slow.policy.lease_s + 1)
        slow.expire()
        slow.beat(job, phase=Phase.STAGE_IN)

    assert slow.show("one").attempts[0].state == "lost"


def test_what_had_no_term_when_it_expired_has_none_when_it_comes_back(slow: Desk) -> None:
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")
    slow.beat(job)
    slow.pass_s(slow.policy.lease_s + 1)
    slow.expire()
    slow.write(lambda tx: tx.execute(update(tables.attempts).values(over_ms=0, may_take_ms=0)))

    slow.pass_s(3600)
    stops = beat_on(slow, job, seconds=300)

    assert (stops, slow.state("one"), slow.job("one").losses) == ([], JobState.RUNNING, 0)


@pytest.mark.parametrize("phase", [Phase.STAGE_IN, Phase.VALIDATING, Phase.STAGE_OUT])
def test_in_whatever_phase_it_says_that_the_job_is(slow: Desk, phase: Phase) -> None:
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")

    beat_on(slow, job, seconds=WALL_S + 1800 + 300, phase=phase)

    assert slow.show("one").attempts[0].state == "lost"


def test_a_validation_has_its_time_too(slow: Desk) -> None:
    check = Input(name="check.sh", content=b"true")
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S, validation=check.name, inputs=[check])
    job = slow.start("vm-1")

    beat_on(slow, job, seconds=2 * WALL_S + 1700)

    assert slow.state("one") is JobState.RUNNING


def test_what_is_not_begun_goes_elsewhere_and_its_guest_is_struck_once(desk: Desk) -> None:
    desk.submit("many", array=5)
    for slot in range(5):
        ask_for(desk, range(slot, slot + 1))
    jobs = desk.assigned()[:5]

    beat_on(desk, *jobs, seconds=desk.policy.begin_s + 120, phase=Phase.ASSIGNED)
    row = desk.job("many.1")
    desk.ask("vm-2")
    other = desk.assigned()[-1]
    desk.complete(other)
    before = len(desk.assigned())
    for slot in range(3):
        desk.ask("vm-1", slot)

    assert (row.state, row.returns, row.losses) == (JobState.SUBMITTED, 1, 0)
    assert desk.show("many.1").attempts[0].cause == "vm-1 has not begun it in 300 s"
    assert other.target == "vm-2"
    assert len(desk.assigned()) == before + 1, "on trial: one at a time"


def test_a_guest_that_says_of_all_its_lanes_that_they_run_is_believed_of_one_a_slot(desk: Desk) -> None:
    desk.submit("many", array=20)
    machine = msgspec.structs.replace(SMALL, slots=2)
    for slot in range(20):
        ask_for(desk, range(slot, slot + 1), machine)
    jobs = desk.assigned()

    desk.beat(*jobs, phase=Phase.RUNNING)
    desk.beat(*reversed(jobs), phase=Phase.RUNNING)
    at_first = [desk.job(f"many.{n}").state for n in range(1, 21)]
    beat_on(desk, *reversed(jobs), seconds=desk.policy.begin_s + 120)

    assert Counter(at_first) == {JobState.RUNNING: 2, JobState.ASSIGNED: 18}
    assert desk.states() == {"running": 2, "submitted": 18}


def test_what_a_slot_has_ended_and_yet_to_store_keeps_none_from_running(desk: Desk) -> None:
    desk.submit("many", array=3)
    for slot in range(3):
        ask_for(desk, range(slot, slot + 1))
    first, second, third = desk.assigned()
    desk.beat(first, second, third, phase=Phase.RUNNING)
    desk.beat(first, phase=Phase.STAGE_OUT)

    message = [(first, Phase.STAGE_OUT), (second, Phase.RUNNING), (third, Phase.ASSIGNED)]
    beat = JobBeat(
        id=desk.id(), generation=1, holding=[Holding(job=j.job, attempt=j.attempt, phase=phase) for j, phase in message]
    )
    desk.write(lambda tx: leases.renew(tx, "vm-1", beat))

    assert [desk.state(f"many.{n}") for n in (1, 2, 3)] == [JobState.STAGE_OUT, JobState.RUNNING, JobState.ASSIGNED]


def test_who_says_that_it_stores_outputs_keeps_them_no_longer_than_that_may_take(slow: Desk) -> None:
    slow.submit("one", wall_time_s=86400.0, grace_s=GRACE_S)
    job = slow.start("vm-1")
    slow.beat(job)

    beat_on(slow, job, seconds=1800 + 300, phase=Phase.STAGE_OUT)

    assert slow.show("one").attempts[0].state == "lost"


def test_a_guest_that_finishes_late_is_counted_if_nobody_else_has_its_job(slow: Desk) -> None:
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")
    beat_on(slow, job, seconds=WALL_S + 1800 + 300)

    answer = slow.complete(job, exit_status=0)

    assert answer.counted
    assert slow.state("one") is JobState.DONE


def test_time_in_which_its_vm_was_paused_is_added(slow: Desk) -> None:
    slow.report("host-1", status("vm-1"))
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")
    beat_on(slow, job, seconds=1200)
    slow.report("host-1", status("vm-1", "saved"))
    slow.pass_s(3 * 86400)
    slow.keep_time()
    slow.report("host-1", status("vm-1"))

    stops = beat_on(slow, job, seconds=WALL_S + 600)
    lives = slow.state("one")
    beat_on(slow, job, seconds=300)

    assert (stops, lives) == ([], JobState.RUNNING)
    assert slow.show("one").attempts[0].state == "lost"


def test_no_host_adds_more_than_a_pause_may_take_however_often_it_pauses(slow: Desk) -> None:
    slow.report("host-1", status("vm-1"))
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")
    slow.beat(job)
    for _ in range(10):
        slow.report("host-1", status("vm-1", "paused"))
        slow.pass_s(86400)
        slow.keep_time()
        slow.report("host-1", status("vm-1"))
        slow.beat(job)

    slow.keep_time()

    assert slow.show("one").attempts[0].state == "lost"


def test_time_in_which_a_laptop_slept_is_added(slow: Desk) -> None:
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")
    beat_on(slow, job, seconds=1200)
    slow.pass_s(2 * 86400)
    slow.keep_time()
    expired = slow.show("one").attempts[0].state

    stops = beat_on(slow, job, seconds=WALL_S + 600)
    lives = slow.state("one")
    beat_on(slow, job, seconds=600)

    assert (expired, stops, lives) == ("expired", [], JobState.RUNNING)
    assert slow.show("one").attempts[0].state == "lost"


def test_a_guest_that_ends_in_time_is_none_the_worse(slow: Desk) -> None:
    slow.submit("one", wall_time_s=WALL_S, grace_s=GRACE_S)
    job = slow.start("vm-1")
    beat_on(slow, job, seconds=WALL_S + 600)

    slow.complete(job, Outcome.DONE, exit_status=0)
    slow.pass_s(86400)
    slow.keep_time()

    assert (slow.state("one"), slow.job("one").losses) == (JobState.DONE, 0)
