"""What guests give back is counted, goes to others first, and costs a VM its name that gives back everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import event, select

from adapters.ledger import completions, leases, tables
from adapters.ledger.outcomes import FREE_RETURNS
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import Tx
from schemas.description import Requirements
from schemas.jobs import Holding, JobAssign, JobBeat, JobCompletion, JobStop, Machine, Outcome, Phase, Steps
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]


@pytest.fixture
def slow(url: str) -> Iterator[Desk]:
    """A ledger with the waits that operators have."""
    made = Desk(url, policy=Policy())
    yield made
    made.ledger.close()


def strikes(desk: Desk) -> int:
    return int(desk.ledger.read(lambda tx: tx.execute(select(tables.vms.c.strikes)).scalar_one()))


def wait_with(desk: Desk, job: JobAssign, trouble: str) -> None:
    """Beat for a job that cannot begin, until it is taken away."""
    holding = [Holding(job=job.job, attempt=job.attempt, phase=Phase.ASSIGNED, trouble=trouble)]
    while not [stop for stop in desk.of_kind(JobStop) if (stop.job, stop.attempt) == (job.job, job.attempt)]:
        desk.pass_s(30)
        desk.write(lambda tx: leases.renew(tx, job.target, JobBeat(id=desk.id(), generation=1, holding=holding)))
        desk.keep_time()


def test_a_vm_that_says_what_keeps_a_job_from_beginning_is_not_struck(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")

    wait_with(desk, desk.start("vm-1"), "the disk is short")

    record = desk.show("one")
    assert (strikes(desk), record.job.state, record.job.returns) == (0, JobState.SUBMITTED, 1)
    assert record.attempts[0].cause == "vm-1 has not begun it in 300 s: the disk is short"


def test_who_has_a_trouble_with_every_job_is_struck_as_who_gives_every_job_back(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    counted = []

    for _ in range(5):
        wait_with(desk, desk.start("vm-1"), "the disk is short")
        counted.append(strikes(desk))

    assert counted == [0, 0, 0, 1, 2]


def bounce(desk: Desk, vm: str, seconds: int, outcome: Outcome = Outcome.RETURNED) -> int:
    """Give back whatever the VM is given, and ask again in the same breath; gives how often."""
    bounced = 0
    desk.ask(vm)
    for _ in range(seconds // 5):
        while mine := [job for job in desk.sent if isinstance(job, JobAssign) and job.target == vm]:
            for job in mine:
                desk.sent.remove(job)
                bounced += 1
                desk.complete(job, outcome, cause="not now", request=desk.request(job.slot))
        desk.pass_s(5)
        desk.beat(vm=vm)
        desk.keep_time()
    return bounced


@pytest.mark.parametrize("outcome", [Outcome.RETURNED, Outcome.CANCELLED])
def test_a_vm_that_gives_back_a_queue_does_so_a_handful_of_times(slow: Desk, outcome: Outcome) -> None:
    slow.report("host-1", status("vm-bad"))
    slow.submit("queue", array=50)

    bounced = bounce(slow, "vm-bad", 300, outcome)
    untouched = [slow.job(f"queue.{n}").attempt for n in range(20, 51)]
    slow.pass_s(60)
    slow.keep_time()
    slow.sent.clear()
    slow.ask("vm-good")

    assert 4 <= bounced <= 12
    assert set(untouched) == {0}
    assert [job.target for job in slow.assigned()] == ["vm-good"], "the queue goes on for others"


def test_a_job_that_was_given_back_is_for_others_first(desk: Desk) -> None:
    desk.submit("other")
    desk.ask("vm-2")
    busy = desk.assigned()[0]
    desk.submit("one")
    job = desk.start("vm-1")

    desk.complete(job, Outcome.RETURNED, request=desk.request())
    kept_off = len(desk.assigned())
    desk.complete(busy, request=desk.request())

    assert kept_off == 2
    assert [(one.job, one.target) for one in desk.assigned()[2:]] == [("site-a/one.1", "vm-2")]


@pytest.mark.parametrize("unfit", [0, 100])
def test_what_a_large_vm_has_given_back_hides_no_other_job_from_it(slow: Desk, unfit: int) -> None:
    """A small VM is there too, and has its hands full; so the large one's jobs are for it first."""
    machine = Machine(cpus=16, memory_mib=65536, disk_mib=65536, platform="linux/x86_64", slots=16)
    slow.report("host-1", status("vm-large", cpus=16), status("vm-small"))
    slow.submit("busy")
    slow.start("vm-small")
    if unfit:
        slow.submit("unfit", array=unfit, priority=1, requirements=Requirements(cpus=99))
    slow.submit("many", array=300)
    slow.ask("vm-large", machine=machine, more=list(range(1, 81)))
    long, *behind = slow.assigned()[1:]
    slow.beat(long, phase=Phase.RUNNING)
    for job in behind:
        slow.complete(job, Outcome.RETURNED)
    before = len(slow.assigned())

    slow.ask("vm-large", 1, machine=machine, more=[2, 3, 4], holding=[long])

    assert len(behind) == 80
    new = [job.job for job in slow.assigned()[before:]]
    assert len(new) == 4
    assert not {job.job for job in behind} & set(new)


class Unwalked(dict[tuple[int, int], bool]):
    """Pairs of classes that may be looked up, and not gone through: there may be 200,000."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        raise AssertionError("gone through")


def test_whether_others_can_have_a_job_is_asked_once_of_many_vms(desk: Desk) -> None:
    desk.submit("many", array=40)
    given_back = [desk.start(f"vm-{number:02}") for number in range(20)]
    desk.ledger._known.fits = Unwalked(desk.ledger._known.fits)
    asked: list[str] = []
    event.listen(
        desk.ledger._open_engines.durable,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: asked.append(statement),
    )

    def work(tx: Tx) -> None:
        for job in given_back:
            message = JobCompletion(
                id=desk.id(), job=job.job, attempt=1, generation=1, outcome=Outcome.RETURNED, request=desk.request()
            )
            completions.complete(tx, job.target, message)

    desk.write(work)

    again = {job.job: job.target for job in desk.assigned()[20:]}
    assert len(again) == 20
    assert not {(job.job, job.target) for job in given_back} & set(again.items())
    assert len([one for one in asked if "rest_until_ms = " in one and "LIMIT" in one]) == 1


def test_where_there_is_one_vm_it_has_it_again(desk: Desk) -> None:
    desk.submit("one")

    desk.complete(desk.start("vm-1"), Outcome.RETURNED, request=desk.request())

    assert [job.attempt for job in desk.assigned()] == [1, 2]


def test_a_slot_that_gives_back_what_waits_behind_a_long_job_is_not_struck(desk: Desk) -> None:
    desk.submit("many", array=64)
    desk.ask("vm-1", more=list(range(1, 40)))
    long, *behind = desk.assigned()
    desk.beat(long, phase=Phase.RUNNING)

    for job in behind:
        desk.complete(job, Outcome.RETURNED)
    before = len(desk.assigned())
    desk.complete(long)
    desk.ask("vm-1", 0, more=[1, 2, 3])

    assert len(desk.assigned()) == before + 4
    assert strikes(desk) == 0


def test_who_gives_back_all_that_waits_behind_one_job_time_and_again_is_struck(desk: Desk) -> None:
    desk.submit("many", array=300)
    desk.ask("vm-1")
    long = desk.assigned()[0]
    desk.beat(long, phase=Phase.RUNNING)
    given = []

    for _ in range(5):
        before = len(desk.assigned())
        desk.ask("vm-1", 1, more=list(range(2, 40)), holding=[long])
        behind = desk.assigned()[before:]
        given.append(len(behind))
        desk.beat(long, *behind, phase=Phase.ASSIGNED)
        for job in behind:
            desk.complete(job, Outcome.RETURNED)

    assert given == [39, 39, 0, 0, 0]


def test_why_shows_how_often_a_job_was_given_back(desk: Desk) -> None:
    desk.submit("one", attempts=3)
    desk.complete(desk.start("vm-1"), Outcome.RETURNED)
    desk.complete(desk.start("vm-2"), Outcome.FAILED)
    desk.complete(desk.start("vm-3"), Outcome.LOST)
    desk.complete(desk.start("vm-4"), Outcome.RETURNED)

    row = desk.job("one")

    assert (row.attempt, row.failures, row.losses, row.returns) == (4, 1, 1, 2)


def test_what_a_person_releases_has_been_given_back_by_nobody(slow: Desk) -> None:
    """Many failures before the release are no returns after it."""
    slow.submit("one", attempts=FREE_RETURNS + 5)
    for number in range(FREE_RETURNS + 5):
        slow.pass_s(3600)
        slow.keep_time()
        slow.complete(slow.start(f"vm-{number}"), Outcome.FAILED)
    held = slow.state("one")

    slow.retry("one")
    slow.complete(slow.start("vm-last"), Outcome.RETURNED)
    slow.ask("vm-next")

    assert held is JobState.HELD
    assert (slow.job("one").returns, slow.assigned()[-1].target) == (1, "vm-next"), "it does not wait"


def test_a_job_that_is_handed_round_waits_before_it_is_tried_again(slow: Desk) -> None:
    slow.submit("one")
    for number in range(FREE_RETURNS):
        slow.complete(slow.start(f"vm-{number}"), Outcome.RETURNED)
    at_once = slow.start("vm-a")

    slow.complete(at_once, Outcome.RETURNED)
    slow.ask("vm-b")

    assert slow.job("one").returns == FREE_RETURNS + 1
    assert slow.assigned()[-1] == at_once


@pytest.mark.parametrize("phase", [Phase.STAGE_IN, Phase.RUNNING, Phase.STAGE_OUT])
@pytest.mark.parametrize("outcome", [Outcome.RETURNED, Outcome.CANCELLED])
def test_what_has_begun_by_its_guests_own_beats_is_lost_and_not_given_back(
    desk: Desk, phase: Phase, outcome: Outcome
) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job, phase=phase)

    desk.complete(job, outcome, cause="not now")

    row = desk.job("one")
    assert (row.state, row.losses, row.returns) == (JobState.SUBMITTED, 1, 0)
    assert desk.show("one").attempts[0].cause.endswith(": not now")


def test_what_has_run_by_its_own_completion_is_lost_and_not_given_back(desk: Desk) -> None:
    desk.submit("one")

    desk.complete(desk.start("vm-1"), Outcome.RETURNED, steps=Steps(run_s=60.0))

    assert (desk.job("one").losses, desk.job("one").returns) == (1, 0)
