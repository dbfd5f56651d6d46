"""What the console says of a job is what the ledger says of it: in each state, for each cause."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from adapters.ledger import leases
from schemas.description import Requirements
from schemas.jobs import Holding, JobAssign, JobBeat, Outcome, Phase
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import Desk, cluster, desk, url
from volcloud.rendering.jobs import render_record, render_why
from volcloud.why import explain

__all__ = ["cluster", "desk", "url"]

FULL = "No space left on device"


def text_of(shown: RenderableType) -> str:
    console = Console(file=StringIO(), width=1000)
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def in_trouble(desk: Desk, job: JobAssign, phase: Phase, trouble: str = FULL) -> None:
    holding = [Holding(job=job.job, attempt=job.attempt, phase=phase, trouble=trouble)]
    desk.write(lambda tx: leases.renew(tx, job.target, JobBeat(id=desk.id(), generation=1, holding=holding)))


def started(desk: Desk, phase: Phase | None = None, trouble: str = "") -> JobAssign:
    desk.submit("one", attempts=3)
    job = desk.start()
    if phase is not None:
        in_trouble(desk, job, phase, trouble)
    return job


def without_a_vm(desk: Desk) -> None:
    desk.submit("one")


def without_an_able_vm(desk: Desk) -> None:
    desk.ask("vm-small")
    desk.submit("one", requirements=Requirements(cpus=9))


def without_a_free_slot(desk: Desk) -> None:
    desk.submit("zero")
    desk.start()
    desk.submit("one")


def failed_once(desk: Desk) -> None:
    desk.complete(started(desk), Outcome.FAILED, cause="exit status 7")


def given_back(desk: Desk) -> None:
    desk.complete(started(desk), Outcome.RETURNED, cause="the job before it takes long")


def failed_too_often(desk: Desk) -> None:
    desk.submit("one", attempts=2)
    for number in range(2):
        desk.complete(desk.start(f"vm-{number}"), Outcome.FAILED, cause="exit status 7")


def lost_too_often(desk: Desk) -> None:
    """It has failed once as well, which is not why it is held."""
    desk.complete(started(desk), Outcome.FAILED, cause="exit status 7")
    for number in range(10):
        desk.pass_s(4000)
        desk.complete(desk.start(f"vm-new-{number}"), Outcome.LOST, cause="the VM was switched off")


def released(desk: Desk) -> None:
    failed_too_often(desk)
    desk.retry("one")


def cancelled_unbegun(desk: Desk) -> None:
    desk.submit("one")
    desk.cancel("one", by="console-ada")


def cancelled_at_work(desk: Desk) -> None:
    started(desk, Phase.RUNNING)
    desk.cancel("one", by="console-ada")


def cancelled_after_a_failure(desk: Desk) -> None:
    failed_too_often(desk)
    desk.cancel("one", by="console-ada")


def fetching_for_long(desk: Desk) -> None:
    job = started(desk, Phase.STAGE_IN)
    desk.pass_s(45)
    desk.beat(job, phase=Phase.STAGE_IN)


def fetching_in_trouble(desk: Desk) -> None:
    job = started(desk, Phase.STAGE_IN)
    desk.pass_s(45)
    in_trouble(desk, job, Phase.STAGE_IN)


def at_work(phase: Phase, trouble: str = "") -> Callable[[Desk], object]:
    return lambda desk: started(desk, phase, trouble)


#: How it comes there; its state, the beginning of the cause, and of the next step.
COURSES: dict[str, tuple[Callable[[Desk], object], JobState, str, str]] = {
    "no VM": (without_a_vm, JobState.SUBMITTED, "no VM has asked", "start a VM: "),
    "no able VM": (without_an_able_vm, JobState.SUBMITTED, "no VM meets", "start a VM that offers this"),
    "no free slot": (without_a_free_slot, JobState.SUBMITTED, "submitted", "wait: VMs that can"),
    "failed once": (failed_once, JobState.SUBMITTED, "exit status 7", "wait: "),
    "given back": (given_back, JobState.SUBMITTED, "the job before it", "wait: "),
    "released": (released, JobState.SUBMITTED, "retried", "wait: "),
    "assigned": (started, JobState.ASSIGNED, "to vm-1 slot 0", "nothing, it is at work"),
    "fetching": (at_work(Phase.STAGE_IN), JobState.STAGE_IN, "", "nothing, it is at work"),
    "fetching for long": (fetching_for_long, JobState.STAGE_IN, "", "start a `storage_adapter`"),
    "fetching in trouble": (fetching_in_trouble, JobState.STAGE_IN, FULL, "start a `storage_adapter`"),
    "running": (at_work(Phase.RUNNING), JobState.RUNNING, "started", "nothing, it is at work"),
    "running in trouble": (at_work(Phase.RUNNING, FULL), JobState.RUNNING, FULL, "mend what it names"),
    "validating": (at_work(Phase.VALIDATING), JobState.VALIDATING, "started", "nothing, it is at work"),
    "storing": (at_work(Phase.STAGE_OUT), JobState.STAGE_OUT, "started", "nothing, it is at work"),
    "storing in trouble": (at_work(Phase.STAGE_OUT, FULL), JobState.STAGE_OUT, FULL, "mend what it names"),
    "done": (lambda desk: desk.complete(started(desk)), JobState.DONE, "done", "fetch its output"),
    "failed too often": (failed_too_often, JobState.HELD, "exit status 7", "held after 2 failures: read"),
    "lost too often": (lost_too_often, JobState.HELD, "lost_too_often", "held after 10 losses: look at the hosts"),
    "cancelled unbegun": (cancelled_unbegun, JobState.CANCELLED, "cancelled by console-ada", "nothing: it has ended"),
    "cancelled at work": (cancelled_at_work, JobState.CANCELLED, "cancelled by console-ada", "nothing: it has ended"),
    "cancelled held": (cancelled_after_a_failure, JobState.CANCELLED, "cancelled by", "nothing: it has ended"),
}


def test_the_courses_lead_to_every_state() -> None:
    assert {state for _, state, _, _ in COURSES.values()} == set(JobState)


@pytest.mark.parametrize("course", COURSES)
def test_console_and_ledger_say_the_same_of_a_job(desk: Desk, course: str) -> None:
    bring, state, cause, next_step = COURSES[course]
    bring(desk)

    record = desk.show("one")
    why = explain(record)

    assert record.job.state is state
    assert (record.cause[: len(cause)], record.next_step[: len(next_step)]) == (cause, next_step)
    assert (why.cause, why.waiting_for, why.next_step) == (record.cause, record.waiting_for, record.next_step)
    assert all(said in text_of(render_why(why)) for said in (record.cause, record.next_step))
    assert all(said in text_of(render_record(record)) for said in (record.cause, record.next_step))


def test_who_noticed_a_cancel_is_who_ordered_it(desk: Desk) -> None:
    cancelled_after_a_failure(desk)

    assert explain(desk.show("one")).noticed_by == "console-ada"
