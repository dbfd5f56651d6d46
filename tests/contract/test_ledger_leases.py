"""The ledger's leases run, are renewed, are stretched by pauses and run out."""

from __future__ import annotations

import pytest

from adapters.ledger import leases
from adapters.ledger.policy import Policy
from adapters.ledger.repute import LONGEST_REST_S
from schemas.jobs import AttemptRef, Holding, JobAssign, JobBeat, JobStop, Outcome, Phase
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import SITE, Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]

LEASE_S = Policy().lease_s


def ref(job: JobAssign) -> AttemptRef:
    return AttemptRef(job=job.job, attempt=job.attempt)


def test_a_beat_moves_the_job_on_and_is_answered_with_the_centres_time(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start()
    desk.pass_s(3)

    answer = desk.beat(job, phase=Phase.RUNNING)

    assert (answer.server_time_ms, answer.stop) == (desk.now_ms, [])
    assert desk.job("one").started_ms == desk.now_ms
    assert desk.state("one") is JobState.RUNNING


def test_a_beat_that_was_overtaken_takes_no_phase_back(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start()
    desk.beat(job, phase=Phase.VALIDATING)

    desk.beat(job, phase=Phase.STAGE_IN)

    assert desk.state("one") is JobState.VALIDATING


def test_an_attempt_that_beats_never_expires(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start()

    for _ in range(10):
        desk.pass_s(LEASE_S - 1)
        desk.beat(job)
        assert desk.expire() == 0

    assert desk.state("one") is JobState.RUNNING


def test_an_attempt_that_stops_beating_expires_and_its_job_waits_again(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    desk.beat(desk.start("vm-1"))
    desk.pass_s(LEASE_S + 1)

    assert desk.expire() == 1

    record = desk.show("one")
    assert (record.job.state, record.job.losses, record.job.vm) == (JobState.SUBMITTED, 1, "")
    assert record.attempts[0].state == "expired"
    assert "no beat of vm-1 on host-1" in record.attempts[0].cause
    assert [event.noticed_by for event in record.events if event.event == "expired"] == ["adapter-test (lease)"]


def test_expiry_happens_once(desk: Desk) -> None:
    desk.submit("one")
    desk.start()
    desk.pass_s(LEASE_S + 1)

    assert [desk.expire(), desk.expire()] == [1, 0]
    assert desk.job("one").losses == 1


def test_an_expired_attempt_that_nobody_took_over_beats_and_lives(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.pass_s(LEASE_S + 1)
    desk.expire()

    answer = desk.beat(job, phase=Phase.STAGE_OUT)
    desk.ask("vm-2")

    assert answer.stop == []
    assert (desk.state("one"), desk.job("one").losses) == (JobState.STAGE_OUT, 0)
    assert len(desk.assigned()) == 1
    assert "revived" in [event.event for event in desk.show("one").events]


def test_an_expired_attempt_that_nobody_took_over_may_finish(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.pass_s(LEASE_S + 1)
    desk.expire()

    answer = desk.complete(job)

    assert answer.counted
    assert desk.state("one") is JobState.DONE


def test_a_superseded_attempt_is_told_to_stop_and_changes_nothing(desk: Desk) -> None:
    desk.submit("one")
    old = desk.start("vm-1")
    desk.pass_s(LEASE_S + 1)
    desk.expire()
    new = desk.start("vm-2")

    answer = desk.beat(old)
    late = desk.complete(old)

    assert answer.stop == [ref(old)]
    assert (late.counted, late.reason) == (False, "superseded")
    assert (desk.job("one").attempt, desk.state("one")) == (new.attempt, JobState.ASSIGNED)


def test_unknown_attempts_and_those_of_other_vms_are_to_stop(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    ghost = JobAssign(target="vm-2", job=f"{SITE}/ghost.1", attempt=1, slot=0, executable="x")

    answer = desk.beat(job, ghost, vm="vm-2")

    assert answer.stop == [ref(job), ref(ghost)]
    assert (desk.counts["foreign_attempt"], desk.counts["unknown_attempt"]) == (1, 1)
    assert desk.state("one") is JobState.ASSIGNED


def test_an_attempt_whose_completion_crosses_a_beat_is_not_told_to_stop(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start()
    desk.complete(job)

    answer = desk.beat(job)

    assert answer.stop == []
    assert desk.state("one") is JobState.DONE


def test_a_beat_of_an_older_boot_renews_nothing(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.hello("vm-1", generation=2, holding=[job])
    desk.pass_s(LEASE_S - 1)

    desk.beat(job, generation=1)
    counted = desk.counts
    desk.pass_s(2)

    assert counted["stale_generation"] == 1
    assert desk.expire() == 1


@pytest.mark.parametrize("state", ["pausing", "paused", "saving", "saved"])
def test_a_vm_that_its_own_host_calls_paused_or_saved_keeps_its_job(desk: Desk, state: str) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    desk.beat(desk.start("vm-1"))
    desk.report("host-1", status("vm-1", state))

    desk.pass_s(86400)

    assert desk.expire() == 0
    assert desk.state("one") is JobState.RUNNING


def test_a_paused_vm_does_not_keep_what_it_has_not_begun(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job, phase=Phase.STAGE_IN)
    desk.report("host-1", status("vm-1", "paused"))
    desk.pass_s(LEASE_S + 1)

    desk.expire()
    other = desk.start("vm-2")

    record = desk.show("one")
    assert (other.job, other.target, other.attempt) == (job.job, "vm-2", 2)
    assert (record.job.losses, record.attempts[0].state) == (0, "returned")
    assert record.attempts[0].cause == "vm-1 was paused before it had said that this began"
    assert [(stop.target, stop.attempt) for stop in desk.of_kind(JobStop)] == [("vm-1", 1)]
    assert desk.beat(job, phase=Phase.RUNNING).stop == [ref(job)]


def test_what_a_stopping_vm_has_not_begun_is_lost_as_ever(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    desk.start("vm-1")
    desk.report("host-1", status("vm-1", "aborted"))
    desk.pass_s(LEASE_S + 1)

    desk.expire()

    assert (desk.job("one").losses, desk.show("one").attempts[0].state) == (1, "expired")


def test_a_pause_longer_than_its_limit_loses_the_job(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    desk.beat(desk.start("vm-1"))
    desk.report("host-1", status("vm-1", "saved"))
    desk.pass_s(desk.policy.pause_limit_s - 1)
    desk.report("host-1", status("vm-1", "saved"))
    before = desk.expire()

    desk.pass_s(2)

    assert (before, desk.expire()) == (0, 1)


def test_a_host_that_cannot_tell_does_not_end_a_pause(desk: Desk) -> None:
    desk.submit("one")
    desk.beat(desk.start("vm-1"))
    desk.report("host-1", status("vm-1", "saved"))
    desk.report("host-1", status("vm-1", "unknown"))

    desk.pass_s(LEASE_S + 1)

    assert desk.expire() == 0


@pytest.mark.parametrize("for_a_while", ["missing", "set_aside"])
def test_a_saved_vm_whose_disk_is_away_for_a_while_keeps_its_job_and_its_pause(desk: Desk, for_a_while: str) -> None:
    desk.submit("one", wall_time_s=3600.0)
    job = desk.start("vm-1")
    desk.beat(job)
    for state in ("saved", for_a_while, "saved"):
        desk.report("host-1", status("vm-1", state))
        desk.pass_s(86400)
        desk.keep_time()
    lives = desk.state("one")

    desk.report("host-1", status("vm-1"))
    desk.beat(job)
    desk.pass_s(LEASE_S - 1)
    desk.keep_time()

    assert (lives, desk.state("one"), desk.job("one").losses) == (JobState.RUNNING, JobState.RUNNING, 0)


def test_a_disk_that_stays_away_loses_the_job_when_a_pause_would(desk: Desk) -> None:
    desk.submit("one")
    desk.beat(desk.start("vm-1"))
    desk.report("host-1", status("vm-1", "saved"))
    desk.report("host-1", status("vm-1", "missing"))

    desk.pass_s(desk.policy.pause_limit_s + 1)

    assert desk.expire() == 1


def test_another_host_cannot_stretch_a_lease(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    desk.start("vm-1")
    desk.report("host-2", status("vm-1", "paused"))
    counted = desk.counts

    desk.pass_s(LEASE_S + 1)

    assert counted["foreign_vm"] == 1
    assert desk.expire() == 1


def test_a_resumed_vm_has_one_lease_to_beat(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    job = desk.start("vm-1")
    desk.report("host-1", status("vm-1", "paused"))
    desk.pass_s(3600)
    desk.report("host-1", status("vm-1", "running"))
    at_once = desk.expire()

    desk.pass_s(LEASE_S - 1)
    desk.beat(job)
    desk.pass_s(2)

    assert (at_once, desk.expire()) == (0, 0)


def lose(desk: Desk, host: str) -> None:
    """Have the job given to a VM of ``host`` and lost there, after whatever rest that VM deserves."""
    vm = f"vm-{host}"
    desk.pass_s(2 * LONGEST_REST_S)
    desk.keep_time()
    desk.report(host, status(vm))
    desk.ask(vm)
    desk.pass_s(LEASE_S + 1)
    assert desk.expire() == 1


def test_a_job_lost_too_often_on_two_hosts_is_held(desk: Desk) -> None:
    desk.submit("killer")
    for host in ("host-1", "host-1", "host-2", "host-1"):
        lose(desk, host)
    before = desk.state("killer")

    lose(desk, "host-1")

    job = desk.job("killer")
    assert before is JobState.SUBMITTED
    assert (job.state, job.losses) == (JobState.HELD, 5)
    assert job.reason.startswith("lost_too_often: 5 times on 2 hosts")


def test_a_job_lost_on_one_host_alone_is_held_later(desk: Desk) -> None:
    desk.submit("unlucky")
    for _ in range(desk.policy.loss_limit_anywhere - 1):
        lose(desk, "host-1")
    before = desk.state("unlucky")

    lose(desk, "host-1")

    assert before is JobState.SUBMITTED
    assert desk.state("unlucky") is JobState.HELD
    assert desk.job("unlucky").reason.startswith("lost_too_often: 10 times on 1 host, last: no beat of vm-host-1")


def test_losses_are_not_failures(desk: Desk) -> None:
    desk.submit("one", attempts=1)

    lose(desk, "host-1")

    assert (desk.job("one").failures, desk.job("one").losses) == (0, 1)


def test_an_attempt_that_its_guest_gives_up_is_lost_once(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.pass_s(LEASE_S + 1)
    desk.expire()

    answer = desk.complete(job, Outcome.LOST)

    assert answer.counted
    assert desk.job("one").losses == 1


def test_many_beats_are_one_transaction_with_an_answer_each(desk: Desk) -> None:
    desk.submit("many", array=100)
    for number in range(100):
        desk.ask(f"vm-{number}")
    beats = [
        (job.target, JobBeat(generation=1, holding=[Holding(job=job.job, attempt=1, phase=Phase.RUNNING)]))
        for job in desk.assigned()
    ]

    answers = desk.ledger.write_lightly(lambda tx: leases.renew_all(tx, beats))

    assert [answer.call for answer in answers] == [beat.id for _, beat in beats]
    assert desk.states() == {"running": 100}
