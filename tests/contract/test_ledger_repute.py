"""What goes wrong is tried again elsewhere, later each time; who does it wrong is given less, then nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from adapters.ledger import attempts
from adapters.ledger.assignments import MOST_HISTORY
from adapters.ledger.policy import Policy
from schemas.jobs import JobAssign, Outcome
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]


@pytest.fixture
def slow(url: str) -> Iterator[Desk]:
    """A ledger with the waits that operators have."""
    made = Desk(url, policy=Policy())
    yield made
    made.ledger.close()


def end(desk: Desk, job: JobAssign, outcome: Outcome = Outcome.DONE) -> None:
    """End a job; its slot asks for the next in the same breath, as guests do."""
    desk.complete(job, outcome, cause=f"{outcome} by the test", request=desk.request(slot=job.slot))


def test_what_was_lost_waits_longer_each_time(slow: Desk) -> None:
    slow.submit("one")
    waits = []

    for number in range(4):
        slow.complete(slow.start(f"vm-{number}"), Outcome.LOST)
        began_ms = slow.now_ms
        while slow.state("one") is JobState.SUBMITTED and len(slow.assigned()) == number + 1:
            slow.pass_s(0.1)
            slow.keep_time()
            slow.ask(f"vm-{number + 1}")
        waits.append((slow.now_ms - began_ms) / 1000)

    assert all(bound / 10 <= wait <= bound + 0.2 for bound, wait in zip((1, 2, 4, 8), waits, strict=True)), waits


def test_a_job_is_not_given_back_to_the_vm_that_lost_it_while_another_may_have_it(desk: Desk) -> None:
    desk.ask("vm-2", slot=0)
    desk.submit("other")
    busy = desk.assigned()[0]
    desk.submit("one")
    end(desk, desk.start("vm-1"), Outcome.LOST)
    desk.pass_s(1)
    desk.ask("vm-1", slot=3)
    at_once = len(desk.assigned())

    end(desk, busy)

    assert at_once == 2
    assert [(job.job, job.target) for job in desk.assigned()[2:]] == [("site-a/one.1", "vm-2")]


def test_where_there_is_one_vm_it_is_given_the_job_again(desk: Desk) -> None:
    desk.submit("one")

    end(desk, desk.start("vm-1"), Outcome.LOST)

    assert [job.attempt for job in desk.assigned()] == [1, 2]


def test_after_a_while_even_the_vm_that_lost_it_may_have_it(desk: Desk) -> None:
    desk.submit("one")
    desk.ask("vm-2")
    desk.submit("other")
    first = desk.assigned()[0]
    end(desk, first, Outcome.LOST)
    desk.pass_s(desk.policy.avoid_s + 1)
    desk.ask("vm-2")

    assert desk.assigned()[-1].target == "vm-2"


def test_a_vm_that_loses_everything_is_given_a_handful_of_jobs(desk: Desk) -> None:
    """One bad VM beside good ones, for five minutes: it asks again at once whenever it has lost something."""
    good = [f"vm-good-{number}" for number in range(3)]
    desk.submit("many", array=600)
    for vm in ("vm-bad", *good):
        desk.report(f"host-of-{vm}", status(vm))
        desk.ask(vm)
    losses = 0

    for _ in range(300):
        desk.pass_s(1)
        desk.keep_time()
        for job in [job for job in desk.sent if isinstance(job, JobAssign)]:
            desk.sent.remove(job)
            losses += job.target == "vm-bad"
            end(desk, job, Outcome.LOST if job.target == "vm-bad" else Outcome.DONE)

    assert 2 <= losses <= 8
    assert desk.states() == {"done": 600}


def test_a_vm_on_trial_has_one_job_at_a_time_until_it_has_finished_one(desk: Desk) -> None:
    desk.submit("many", array=5)
    end(desk, desk.start("vm-1"), Outcome.LOST)
    for slot in (1, 2, 3):
        desk.ask("vm-1", slot)
    on_trial = desk.assigned()[1:]

    end(desk, on_trial[0])

    assert len(on_trial) == 1
    assert len(desk.assigned()) == 6


def test_a_power_cut_that_takes_many_jobs_is_one_strike(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("many", array=8)
    for slot in range(8):
        desk.ask("vm-1", slot)
    desk.pass_s(desk.policy.lease_s + 1)
    desk.expire()

    desk.ask("vm-1", 0)

    assert len(desk.assigned()) == 9


def test_a_vm_that_fails_what_others_finish_is_struck(desk: Desk) -> None:
    desk.submit("many", array=40, attempts=5)
    desk.complete(desk.start("vm-good"))
    failures = 0

    job = desk.start("vm-bad")
    for _ in range(20):
        before = len(desk.assigned())
        end(desk, job, Outcome.FAILED)
        failures += 1
        if len(desk.assigned()) == before:
            break
        job = desk.assigned()[-1]

    assert failures == 2


def test_a_payload_that_fails_everywhere_speaks_against_no_vm(desk: Desk) -> None:
    desk.submit("broken", array=30)
    job = desk.start("vm-1")

    for _ in range(29):
        end(desk, job, Outcome.FAILED)
        job = desk.assigned()[-1]

    assert len({job.job for job in desk.assigned()}) == 30


def test_a_vm_on_which_a_single_job_failed_is_struck_when_another_finishes_it(desk: Desk) -> None:
    desk.submit("one", attempts=3)
    desk.complete(desk.start("vm-1"), Outcome.FAILED)
    desk.complete(desk.start("vm-2"))

    desk.submit("many", array=3)
    for slot in range(3):
        desk.ask("vm-1", slot)

    assert [job.target for job in desk.assigned()[2:]] == ["vm-1"]


def test_new_vms_do_not_wash_a_bad_host_clean(desk: Desk) -> None:
    desk.submit("many", array=500)
    losses = 0

    for number in range(100):
        vm = f"vm-{number}"
        desk.report("host-bad", status(vm))
        given = len(desk.assigned())
        desk.ask(vm)
        for job in desk.assigned()[given:]:
            losses += 1
            desk.complete(job, Outcome.LOST)

    assert 0 < losses <= 6


def test_the_rows_of_a_job_that_is_handed_round_for_ever_are_bounded(desk: Desk) -> None:
    desk.submit("one")

    for number in range(MOST_HISTORY + 30):
        desk.pass_s(1)
        desk.complete(desk.start(f"vm-{number}"), Outcome.RETURNED)

    record = desk.show("one")
    assert record.job.attempt == MOST_HISTORY + 30
    assert len(record.attempts) == MOST_HISTORY
    assert len(record.events) < 4 * MOST_HISTORY


def test_a_beat_reads_no_attempt_but_those_that_it_names(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.submit("one")
    for number in range(50):
        desk.pass_s(1)
        desk.complete(desk.start(f"vm-{number}"), Outcome.RETURNED)
    job = desk.start("vm-99")
    read = itertools.count()
    made = attempts.Held._make
    monkeypatch.setattr(attempts.Held, "_make", lambda row: (next(read), made(row))[1])

    desk.beat(job)

    assert next(read) == 1
