"""A site hears how its jobs end, once for each end, by the transaction that ends them; and finds what they left."""

from __future__ import annotations

import pytest

from adapters.errors import NotFound
from adapters.ledger import deletion, outputs
from adapters.ledger.transaction import Tx
from schemas.jobs import Outcome, OutputEntry, Steps
from schemas.ledger import JobDelete, JobState
from schemas.sites import JobEnded
from tests.contract.ledger_fixtures import SITE, Desk, cluster, desk, url

__all__ = ["cluster", "desk", "url"]

RESULT = OutputEntry(name="result.json", size=2, sha256="a" * 64)


def ends(desk: Desk) -> list[JobEnded]:
    return desk.of_kind(JobEnded)


def test_a_job_that_is_done_is_told_with_what_it_left(desk: Desk) -> None:
    desk.submit("one")
    submitted_ms = desk.now_ms
    job = desk.start("vm-1")
    desk.pass_s(60)

    desk.complete(job, exit_status=0, steps=Steps(run_s=50.0), outputs=[RESULT])

    (told,) = ends(desk)
    assert (told.job, told.state, told.attempt, told.exit_status) == (f"{SITE}/one.1", JobState.DONE, 1, 0)
    assert (told.submitted_ms, told.ended_ms) == (submitted_ms, desk.now_ms)
    assert told.started_ms == desk.now_ms - 50_000
    assert (told.outputs, told.cause, told.is_cut) == ([RESULT], "", False)


def test_an_end_is_told_once_however_often_it_comes(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")

    desk.complete(job)
    desk.complete(job)

    assert len(ends(desk)) == 1


def test_a_job_that_failed_too_often_is_told_as_held_and_again_once_it_was_retried(desk: Desk) -> None:
    desk.submit("one", attempts=2)
    for _ in range(2):
        desk.complete(desk.start("vm-1"), Outcome.FAILED, exit_status=7, cause="it ended with 7", outputs=[RESULT])
        desk.pass_s(120)

    (told,) = ends(desk)
    assert (told.state, told.attempt, told.exit_status, told.cause) == (JobState.HELD, 2, 7, "it ended with 7")
    assert told.outputs == [RESULT]

    desk.retry("one")
    desk.complete(desk.start("vm-2"), exit_status=0)

    assert [(one.state, one.attempt) for one in ends(desk)] == [(JobState.HELD, 2), (JobState.DONE, 3)]


def test_what_is_cancelled_is_told_whether_it_waited_or_ran(desk: Desk) -> None:
    desk.submit("some", array=3)
    desk.start("vm-1")

    desk.cancel("some", SITE, by=SITE)

    told = {one.job: one for one in ends(desk)}
    assert sorted(told) == [f"{SITE}/some.{index}" for index in (1, 2, 3)]
    assert {one.state for one in told.values()} == {JobState.CANCELLED}
    assert {one.cause for one in told.values()} == {f"cancelled by {SITE}"}
    assert sorted(one.attempt for one in told.values()) == [0, 0, 1]
    assert {one.exit_status for one in told.values()} == {-1}
    assert {one.ended_ms for one in told.values()} == {desk.now_ms}


def test_a_job_that_is_lost_and_waits_again_is_not_told(desk: Desk) -> None:
    desk.submit("one")
    desk.complete(desk.start("vm-1"), Outcome.LOST, cause="its VM went")

    assert ends(desk) == []


def test_a_persons_jobs_are_told_to_nobody(desk: Desk) -> None:
    desk.submit("one", "console-operator")
    desk.complete(desk.start("vm-1"))
    desk.submit("two", "console-operator")
    desk.cancel("two", "console-operator")

    assert ends(desk) == []


def test_an_end_with_more_outputs_than_a_sites_queue_should_hold_is_told_without_them(desk: Desk) -> None:
    desk.submit("one")
    many = [OutputEntry(name=f"histogram-{number}.root", size=2, sha256="a" * 64) for number in range(400)]

    desk.complete(desk.start("vm-1"), exit_status=0, outputs=many)

    (told,) = ends(desk)
    assert (told.state, told.outputs, told.is_cut) == (JobState.DONE, [], True)


@pytest.mark.parametrize("name", ["../x", "a/../x", "/etc/passwd", "", ".", "a//b", "x\x1b[2J", "x\n", "y" * 1025])
def test_a_name_that_only_does_harm_is_told_to_no_site(desk: Desk, name: str) -> None:
    desk.submit("one")
    bad, negative = OutputEntry(name=name, size=2, sha256="a" * 64), OutputEntry(name="n", size=-5, sha256="a" * 64)

    desk.complete(desk.start("vm-1"), exit_status=0, outputs=[bad, RESULT, negative, RESULT])

    assert ends(desk)[0].outputs == [RESULT]
    with pytest.raises(NotFound, match=r"its outputs are result\.json$"):
        find(desk, f"{SITE}/one.1", name)


def test_a_cancel_is_told_with_its_own_time_and_a_done_job_without_a_guests_words(desk: Desk) -> None:
    desk.submit("one", attempts=3)
    desk.complete(desk.start("vm-1"), Outcome.FAILED, exit_status=7)
    desk.pass_s(3600)
    desk.cancel("one", SITE, by=SITE)
    desk.submit("two")
    desk.complete(desk.start("vm-2"), exit_status=0, cause="a guest's own words")

    cancelled, done = ends(desk)
    assert (cancelled.state, cancelled.ended_ms, cancelled.attempt) == (JobState.CANCELLED, desk.now_ms, 1)
    assert (done.state, done.cause) == (JobState.DONE, "")


def test_a_name_that_is_used_again_and_cancelled_had_no_attempt(desk: Desk) -> None:
    desk.submit("one")
    desk.complete(desk.start("vm-1"), exit_status=0)
    desk.order(lambda tx: deletion.delete_named(tx, JobDelete(job="one"), SITE))
    desk.submit("one")
    desk.cancel("one", SITE)

    assert [(one.state, one.attempt) for one in ends(desk)] == [(JobState.DONE, 1), (JobState.CANCELLED, 0)]


def test_a_job_whose_guests_fall_silent_too_often_is_told_as_held(desk: Desk) -> None:
    desk.submit("one")
    for number in range(desk.policy.loss_limit_anywhere):
        desk.start(f"vm-{number}")
        desk.pass_s(desk.policy.lease_s + 1)
        desk.expire()
        desk.pass_s(3600)
        desk.keep_time()

    (told,) = ends(desk)
    assert (told.state, told.exit_status) == (JobState.HELD, -1)
    assert "lost_too_often" in told.cause


def find(desk: Desk, job: str, name: str, owner: str = SITE) -> tuple[int, OutputEntry]:
    def work(tx: Tx) -> tuple[int, OutputEntry]:
        last = outputs.last_of(tx, job, owner)
        return last.attempt, outputs.find(tx, last, name)

    return desk.ledger.read(work)


def test_an_output_is_of_the_last_attempt(desk: Desk) -> None:
    desk.submit("one", attempts=2)
    old = OutputEntry(name="result.json", size=9, sha256="b" * 64)
    desk.complete(desk.start("vm-1"), Outcome.FAILED, exit_status=1, outputs=[old])
    desk.pass_s(120)
    desk.complete(desk.start("vm-2"), exit_status=0, outputs=[RESULT])

    assert find(desk, f"{SITE}/one.1", "result.json") == (2, RESULT)


def test_what_is_not_there_is_told_with_what_is(desk: Desk) -> None:
    desk.submit("one")

    with pytest.raises(NotFound, match=r"it has no such output; it is submitted and has left none"):
        find(desk, f"{SITE}/one.1", "result.json")

    desk.complete(desk.start("vm-1"), exit_status=0, outputs=[RESULT])
    with pytest.raises(NotFound, match=r"name = 'stdout': it has no such output; its outputs are result\.json"):
        find(desk, f"{SITE}/one.1", "stdout")


def test_another_sites_job_is_as_one_that_is_not_there(desk: Desk) -> None:
    desk.submit("one")
    desk.complete(desk.start("vm-1"), exit_status=0, outputs=[RESULT])

    for job in (f"{SITE}/one.1", f"{SITE}/none.1"):
        with pytest.raises(NotFound) as refused:
            find(desk, job, "result.json", "site-b")
        assert str(refused.value) == f"job = {job!r}: no such job of site-b"
