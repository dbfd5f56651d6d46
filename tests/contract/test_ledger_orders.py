"""The ledger obeys people: cancel and retry."""

from __future__ import annotations

import pytest

from adapters.errors import Ambiguous, NotFound
from schemas.jobs import JobStop, Outcome
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import SITE, Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]


def test_a_waiting_job_is_cancelled_at_once_and_never_given_out(desk: Desk) -> None:
    desk.submit("one")

    changed = desk.cancel("one")
    desk.ask("vm-1")

    assert (changed.changed, changed.pending) == (1, 0)
    assert desk.state("one") is JobState.CANCELLED
    assert desk.assigned() == []


def test_a_running_job_is_cancelled_at_once_and_its_guest_told_to_stop(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job)

    changed = desk.cancel("one", by="console-ada")

    stop, record = desk.of_kind(JobStop)[0], desk.show("one")
    assert (changed.changed, changed.pending) == (1, 1)
    assert (stop.target, stop.job, stop.attempt, stop.reason) == ("vm-1", job.job, 1, "cancelled by console-ada")
    assert (record.job.state, record.job.reason) == (JobState.CANCELLED, "cancelled by console-ada")
    assert (record.attempts[0].state, record.events[-1].noticed_by) == ("cancelled", "console-ada")


def test_a_cancel_does_not_wait_for_a_paused_vm_which_is_told_when_it_goes_on(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job)
    desk.report("host-1", status("vm-1", "paused"))
    desk.pass_s(3600)

    desk.cancel("one")
    at_once = desk.state("one")
    desk.pass_s(86400)
    answer = desk.beat(job)
    late = desk.complete(job)

    assert at_once is JobState.CANCELLED
    assert [stop.job for stop in answer.stop] == [job.job]
    assert (late.counted, desk.state("one")) == (False, JobState.CANCELLED)


def test_a_second_cancel_sends_no_second_stop(desk: Desk) -> None:
    desk.submit("one")
    desk.start("vm-1")

    answers = [desk.cancel("one"), desk.cancel("one")]

    assert [(answer.changed, answer.pending) for answer in answers] == [(1, 1), (0, 0)]
    assert len(desk.of_kind(JobStop)) == 1


def test_every_beat_repeats_the_stop(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.cancel("one")
    desk.pass_s(desk.policy.lease_s - 1)

    answer = desk.beat(job)
    desk.pass_s(2)

    assert [stop.job for stop in answer.stop] == [job.job]
    assert desk.expire() == 0


def test_a_job_to_be_cancelled_whose_vm_is_lost_is_cancelled(desk: Desk) -> None:
    desk.submit("one")
    desk.start("vm-1")
    desk.cancel("one")
    desk.pass_s(desk.policy.lease_s + 1)

    desk.expire()

    assert desk.state("one") is JobState.CANCELLED


def test_a_job_cancelled_after_its_lease_ran_out_stops_its_guest_when_that_comes_back(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.pass_s(desk.policy.lease_s + 1)
    desk.expire()
    desk.cancel("one")

    answer = desk.beat(job)
    late = desk.complete(job)

    assert [stop.job for stop in answer.stop] == [job.job]
    assert (late.counted, late.reason) == (False, "cancelled")
    assert desk.state("one") is JobState.CANCELLED


def test_an_array_is_cancelled_whole_or_by_index(desk: Desk) -> None:
    desk.submit("many", array=5)
    desk.start("vm-1")

    one = desk.cancel("many.3")
    rest = desk.cancel("many")

    assert (one.changed, one.pending) == (1, 0)
    assert (rest.changed, rest.pending) == (4, 1)
    assert desk.states() == {"cancelled": 5}


def test_what_has_ended_is_left_alone(desk: Desk) -> None:
    desk.submit("one")
    desk.complete(desk.start("vm-1"))

    changed = desk.cancel("one")

    assert (changed.changed, changed.pending) == (0, 0)
    assert desk.state("one") is JobState.DONE


def test_a_held_job_is_released_with_its_counts_at_zero(desk: Desk) -> None:
    desk.submit("one")
    desk.complete(desk.start("vm-1"), Outcome.FAILED, cause="bad")

    changed = desk.retry("one")
    desk.ask("vm-2")

    job = desk.job("one")
    assert changed.changed == 1
    assert (job.state, job.attempt, job.failures, job.reason) == (JobState.ASSIGNED, 2, 0, "")


def test_a_retry_leaves_waiting_and_done_jobs_alone(desk: Desk) -> None:
    desk.submit("many", array=2)
    desk.complete(desk.start("vm-1"))

    changed = desk.retry("many")

    assert changed.changed == 0
    assert desk.states() == {"done": 1, "submitted": 1}


def test_a_site_cannot_touch_another_sites_jobs(desk: Desk) -> None:
    desk.submit("one", "site-a")

    with pytest.raises(NotFound):
        desk.cancel("one", owner="site-b")
    with pytest.raises(NotFound):
        desk.cancel("site-a/one", owner="site-b")

    assert desk.state("one") is JobState.SUBMITTED


def test_a_console_names_the_owner_when_the_id_is_not_enough(desk: Desk) -> None:
    desk.submit("one", "site-a")
    desk.submit("one", "site-b")

    with pytest.raises(Ambiguous, match="site-a, site-b"):
        desk.cancel("one")
    changed = desk.cancel("site-b/one")

    assert changed.changed == 1
    assert desk.job("one", "site-a").state is JobState.SUBMITTED


@pytest.mark.parametrize(
    "name", ["ghost", "one.7", "one.0", "one.x", "one.", "one.99999999999999999999", f"{SITE}/ghost"]
)
def test_a_name_that_fits_no_job_is_said_to(desk: Desk, name: str) -> None:
    desk.submit("one")

    with pytest.raises(NotFound, match=r"no such job|no job 7"):
        desk.cancel(name)


def test_the_diary_says_who_ordered(desk: Desk) -> None:
    desk.submit("one")

    desk.cancel("one", owner=SITE)

    event = desk.show("one").events[-1]
    assert (event.event, event.noticed_by) == ("cancelled", SITE)
