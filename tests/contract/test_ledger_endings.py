"""A site hears how its jobs end, once for each end, by the transaction that ends them; and finds what they left."""

from __future__ import annotations

import pytest

from adapters.errors import NotFound
from adapters.ledger import outputs
from adapters.ledger.outputs import LeftOutput
from schemas.envelope import MAX_BODY_BYTES
from schemas.jobs import Outcome, OutputEntry, Steps
from schemas.ledger import JobState
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


def test_a_job_that_is_lost_for_good_is_told_and_one_that_waits_again_is_not(desk: Desk) -> None:
    desk.submit("one")
    desk.complete(desk.start("vm-1"), Outcome.LOST, cause="its VM went")

    assert ends(desk) == []


def test_a_persons_jobs_are_told_to_nobody(desk: Desk) -> None:
    desk.submit("one", "console-operator")
    desk.complete(desk.start("vm-1"))
    desk.submit("two", "console-operator")
    desk.cancel("two", "console-operator")

    assert ends(desk) == []


def test_an_end_whose_outputs_have_names_beyond_all_bounds_is_told_without_them(desk: Desk) -> None:
    desk.submit("one")
    long_name = OutputEntry(name="x" * (MAX_BODY_BYTES - 200), size=2, sha256="a" * 64)

    desk.complete(desk.start("vm-1"), exit_status=0, outputs=[long_name])

    (told,) = ends(desk)
    assert (told.state, told.outputs, told.is_cut) == (JobState.DONE, [], True)


def find(desk: Desk, job: str, name: str, owner: str = SITE) -> LeftOutput:
    return desk.ledger.read(lambda tx: outputs.find(tx, job, name, owner))


def test_an_output_is_of_the_last_attempt(desk: Desk) -> None:
    desk.submit("one", attempts=2)
    old = OutputEntry(name="result.json", size=9, sha256="b" * 64)
    desk.complete(desk.start("vm-1"), Outcome.FAILED, exit_status=1, outputs=[old])
    desk.pass_s(120)
    desk.complete(desk.start("vm-2"), exit_status=0, outputs=[RESULT])

    assert find(desk, f"{SITE}/one.1", "result.json") == LeftOutput(2, RESULT)


def test_what_is_not_there_is_told_with_what_is(desk: Desk) -> None:
    desk.submit("one")

    with pytest.raises(NotFound, match=r"site-a/one\.1 has no such output; it is submitted and has left none"):
        find(desk, f"{SITE}/one.1", "result.json")

    desk.complete(desk.start("vm-1"), exit_status=0, outputs=[RESULT])
    with pytest.raises(NotFound, match=r"name = 'stdout': .* has no such output; its outputs are result\.json"):
        find(desk, f"{SITE}/one.1", "stdout")


def test_another_sites_job_is_as_one_that_is_not_there(desk: Desk) -> None:
    desk.submit("one")
    desk.complete(desk.start("vm-1"), exit_status=0, outputs=[RESULT])

    for job in (f"{SITE}/one.1", f"{SITE}/none.1"):
        with pytest.raises(NotFound) as refused:
            find(desk, job, "result.json", "site-b")
        assert str(refused.value) == f"job = {job!r}: no such job of site-b"
