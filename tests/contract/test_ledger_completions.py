"""The ledger ends attempts: once, fenced by attempt and VM, always answered."""

from __future__ import annotations

import msgspec
import pytest

from adapters.ledger import completions
from schemas.jobs import JobCompletion, JobCompletionAnswer, Outcome, OutputEntry, Phase, Steps, Usage
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import SITE, SMALL, Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]


def test_a_done_job_is_done_and_its_evidence_is_kept(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", pid=99))
    desk.submit("one")
    job = desk.start("vm-1")
    desk.pass_s(60)
    outputs = [OutputEntry(name="stdout", size=3, sha256="c" * 64)]

    answer = desk.complete(
        job, exit_status=0, steps=Steps(run_s=50.0), usage=Usage(cpu_seconds=49.0), outputs=outputs, boot_id="b1"
    )

    row = desk.job("one")
    attempt = desk.show("one").attempts[0]
    assert answer.counted
    assert (row.state, row.started_ms, row.ended_ms) == (JobState.DONE, desk.now_ms - 50_000, desk.now_ms)
    assert (attempt.state, attempt.exit_status, attempt.boot_id, attempt.host) == ("done", 0, "b1", "host-1")
    assert (attempt.outputs, attempt.usage.cpu_seconds, attempt.steps.run_s) == (outputs, 49.0, 50.0)


def test_a_job_began_when_its_guest_says_and_not_when_a_beat_noticed(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.pass_s(3.6)
    desk.beat(job)
    desk.pass_s(1.4)
    desk.complete(job, exit_status=0, steps=Steps(run_s=5.0))

    row = desk.job("one")
    assert row.ended_ms - row.started_ms == 5000


@pytest.mark.parametrize("outcome", [Outcome.RETURNED, Outcome.CANCELLED, Outcome.FAILED, Outcome.LOST])
def test_what_never_ran_has_not_started(desk: Desk, outcome: Outcome) -> None:
    desk.submit("one", attempts=2)
    job = desk.start("vm-1")
    desk.pass_s(10)

    desk.complete(job, outcome, cause="it never began")

    record = desk.show("one")
    assert record.attempts[0].started_ms == 0
    assert "started" not in [event.event for event in record.events]


def test_the_answer_goes_out_with_the_commit(desk: Desk) -> None:
    desk.submit("one")

    answer = desk.complete(desk.start("vm-1"))

    assert desk.of_kind(JobCompletionAnswer) == [answer]


def test_a_repeated_completion_is_answered_alike_and_counts_once(desk: Desk) -> None:
    desk.submit("one", attempts=3)
    job = desk.start("vm-1")

    first = desk.complete(job, Outcome.FAILED)
    second = desk.complete(job, Outcome.FAILED)

    assert (first.counted, second.counted) == (True, True)
    assert desk.job("one").failures == 1


def test_a_completion_repeated_within_one_batch_counts_once(desk: Desk) -> None:
    desk.submit("one", attempts=3)
    job = desk.start("vm-1")
    message = JobCompletion(job=job.job, attempt=1, outcome=Outcome.FAILED)

    answers = desk.write(lambda tx: completions.complete_all(tx, [("vm-1", message), ("vm-1", message)]))

    assert [answer.counted for answer in answers] == [True, True]
    assert desk.job("one").failures == 1


def test_a_repeated_completion_after_the_job_went_on_is_still_answered_as_the_first(desk: Desk) -> None:
    desk.submit("one", attempts=3)
    job = desk.start("vm-1")
    desk.complete(job, Outcome.FAILED)
    desk.start("vm-2")

    again = desk.complete(job, Outcome.FAILED)

    assert again.counted
    assert desk.state("one") is JobState.ASSIGNED


def test_another_vm_cannot_complete_an_attempt(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")

    answer = desk.complete(job, vm="vm-2")

    assert (answer.counted, answer.reason) == (False, "foreign_attempt")
    assert desk.state("one") is JobState.ASSIGNED


def test_a_completion_of_nothing_that_we_know_is_answered(desk: Desk) -> None:
    message = JobCompletion(job=f"{SITE}/ghost.1", attempt=4, outcome=Outcome.DONE)

    answer = desk.write(lambda tx: completions.complete(tx, "vm-1", message))

    assert (answer.counted, answer.reason, answer.call) == (False, "unknown_attempt", message.id)
    assert desk.of_kind(JobCompletionAnswer) == [answer]


def test_a_payload_that_fails_its_allowed_times_is_held_with_its_cause(desk: Desk) -> None:
    desk.submit("one", attempts=2)
    desk.complete(desk.start("vm-1"), Outcome.FAILED, exit_status=1, cause="no such file")
    between = desk.state("one")

    desk.complete(desk.start("vm-1"), Outcome.FAILED, exit_status=3, cause="exit status 3")

    job = desk.job("one")
    assert between is JobState.SUBMITTED
    assert (job.state, job.failures, job.reason) == (JobState.HELD, 2, "exit status 3")


def test_a_failure_without_a_cause_still_gives_a_reason(desk: Desk) -> None:
    desk.submit("one")

    desk.complete(desk.start("vm-1"), Outcome.FAILED, exit_status=139)

    assert desk.job("one").reason == "failed with exit status 139"


def test_the_words_of_a_guest_are_kept_whatever_bytes_and_length_they_have(desk: Desk) -> None:
    desk.submit("one")

    answer = desk.complete(desk.start("vm-1"), Outcome.FAILED, cause="core\0dump " + "x" * 10_000, boot_id="b\0")

    assert answer.counted
    assert desk.job("one").reason.startswith("core\N{REPLACEMENT CHARACTER}dump xxx")
    assert len(desk.job("one").reason) == 4000


def test_an_attempt_that_its_guest_lost_is_a_loss(desk: Desk) -> None:
    desk.submit("one")

    desk.complete(desk.start("vm-1"), Outcome.LOST, cause="the agent was killed")

    job = desk.job("one")
    assert (job.state, job.losses, job.failures) == (JobState.SUBMITTED, 1, 0)


def test_an_attempt_that_was_given_back_counts_against_nobody(desk: Desk) -> None:
    desk.submit("one", attempts=1)

    first = desk.start("vm-1")
    desk.complete(first, Outcome.RETURNED, cause="the job before it takes long")
    counts = desk.counts
    second = desk.start("vm-2")
    desk.complete(second)

    job = desk.job("one")
    assert (job.state, job.attempt, job.losses, job.failures) == (JobState.DONE, 2, 0, 0)
    assert (counts["attempts_returned"], counts.get("jobs_requeued", 0)) == (1, 0)


def test_an_attempt_given_back_after_its_lease_changes_nothing(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.pass_s(desk.policy.lease_s + 1)
    desk.expire()

    desk.complete(job, Outcome.RETURNED)

    assert (desk.state("one"), desk.job("one").losses) == (JobState.SUBMITTED, 1)


def test_a_cancelled_attempt_ends_its_job(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.cancel("one")

    desk.complete(job, Outcome.CANCELLED)

    assert desk.state("one") is JobState.CANCELLED


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOST, Outcome.RETURNED])
def test_a_job_to_be_cancelled_that_ends_badly_is_cancelled(desk: Desk, outcome: Outcome) -> None:
    desk.submit("one", attempts=5)
    job = desk.start("vm-1")
    desk.cancel("one")

    desk.complete(job, outcome)

    assert desk.state("one") is JobState.CANCELLED


def test_a_completion_that_crosses_a_cancel_is_answered_and_does_not_count(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.cancel("one")

    answer = desk.complete(job)

    assert (answer.counted, answer.reason) == (False, "cancelled")
    assert desk.state("one") is JobState.CANCELLED


@pytest.mark.parametrize(("run_s", "state", "losses"), [(0.0, "returned", 0), (2.5, "lost", 1)])
def test_a_guest_that_says_cancelled_though_nobody_had_asked_ends_no_job(
    desk: Desk, run_s: float, state: str, losses: int
) -> None:
    desk.submit("one")
    job = desk.start("vm-1")

    desk.complete(job, Outcome.CANCELLED, cause="superseded", steps=Steps(run_s=run_s))

    record = desk.show("one")
    assert (record.job.state, record.job.losses) == (JobState.SUBMITTED, losses)
    assert record.attempts[0].state == state
    assert "though nobody had cancelled it: superseded" in record.attempts[0].cause


def test_what_ran_in_another_boot_than_it_was_given_to_does_not_count_as_done(desk: Desk) -> None:
    desk.submit("one")
    desk.ask("vm-1", machine=msgspec.structs.replace(SMALL, boot_id="boot-1"))
    job = desk.assigned()[0]

    answer = desk.complete(job, boot_id="boot-2")

    record = desk.show("one")
    assert answer.counted
    assert (record.job.state, record.job.losses) == (JobState.SUBMITTED, 1)
    assert "in another boot of vm-1" in record.attempts[0].cause


def test_what_was_finished_in_the_boot_that_it_was_given_to_is_done_whoever_delivers_it(desk: Desk) -> None:
    desk.submit("one")
    desk.ask("vm-1", machine=msgspec.structs.replace(SMALL, boot_id="boot-1"))
    job = desk.assigned()[0]
    desk.hello("vm-1", generation=2, holding=[job], boot_id="boot-2")
    desk.beat(job, phase=Phase.STAGE_OUT, generation=2)

    desk.complete(job, boot_id="boot-1")

    assert desk.state("one") is JobState.DONE


def test_a_begun_attempt_of_a_dead_boot_is_lost_and_its_guest_told(desk: Desk) -> None:
    desk.submit("one")
    desk.ask("vm-1", machine=msgspec.structs.replace(SMALL, boot_id="boot-1"))
    job = desk.assigned()[0]
    desk.beat(job)
    desk.hello("vm-1", generation=2, holding=[job], boot_id="boot-2")

    answer = desk.beat(job, phase=Phase.RUNNING, generation=2)

    record = desk.show("one")
    assert [stop.job for stop in answer.stop] == [job.job]
    assert (record.job.state, record.job.losses) == (JobState.SUBMITTED, 1)
    assert record.attempts[0].cause == "vm-1 was booted anew while it had it"


def test_a_begun_attempt_that_a_restore_carries_over_lives(desk: Desk) -> None:
    desk.submit("one")
    desk.ask("vm-1", machine=msgspec.structs.replace(SMALL, boot_id="boot-1"))
    job = desk.assigned()[0]
    desk.hello("vm-1", generation=2, holding=[job], boot_id="boot-1")

    answer = desk.beat(job, phase=Phase.RUNNING, generation=2)

    assert (answer.stop, desk.state("one")) == ([], JobState.RUNNING)


def test_a_request_that_rides_along_gets_the_next_job_in_the_same_transaction(desk: Desk) -> None:
    desk.submit("many", array=2)
    job = desk.start("vm-1")

    desk.complete(job, request=desk.request())

    assert [one.job for one in desk.assigned()] == [f"{SITE}/many.1", f"{SITE}/many.2"]
    assert desk.states() == {"done": 1, "assigned": 1}


def test_a_request_rides_along_even_with_a_superseded_completion(desk: Desk) -> None:
    desk.submit("many", array=2)
    old = desk.start("vm-1")
    desk.pass_s(desk.policy.lease_s + 1)
    desk.expire()
    desk.start("vm-2")

    answer = desk.complete(old, request=desk.request())

    assert not answer.counted
    assert desk.assigned()[-1].target == "vm-1"


def test_a_completion_delivered_again_with_its_request_brings_no_second_job(desk: Desk) -> None:
    desk.submit("many", array=3)
    job = desk.start("vm-1")
    request = desk.request()
    desk.complete(job, request=request)
    desk.beat(desk.assigned()[-1])

    desk.complete(job, request=request)

    assert len(desk.assigned()) == 2


def test_a_completion_of_the_boot_before_counts_while_nobody_has_the_job(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.hello("vm-1", generation=2)

    answer = desk.complete(job)

    assert answer.counted
    assert desk.state("one") is JobState.DONE


def test_what_a_job_took_is_observed(desk: Desk) -> None:
    desk.submit("one")
    desk.pass_s(4)
    job = desk.start("vm-1")
    message = JobCompletion(job=job.job, attempt=1, outcome=Outcome.DONE, steps=Steps(run_s=2.5))

    def work(tx: completions.Tx) -> dict[str, float]:
        completions.complete(tx, "vm-1", message)
        return dict(tx.observations)

    assert desk.write(work) == {"stage_in": 0.0, "run": 2.5, "stage_out": 0.0, "turnaround": 4.0}
