"""The ledger takes submissions."""

from __future__ import annotations

from adapters.ledger import deletion, submissions
from adapters.ledger.policy import Policy
from schemas.description import Input, JobDescription
from schemas.ledger import JobDelete, JobState, JobSubmit
from tests.contract.ledger_fixtures import Desk, cluster, desk, url

__all__ = ["cluster", "desk", "url"]

DIGEST = "a" * 64
FEW = Policy(first_retry_s=0, waiting_of_owner=5)


def test_a_submitted_job_waits(desk: Desk) -> None:
    verdict = desk.submit("one")

    assert (verdict.accepted, verdict.job, verdict.count) == (True, "one", 1)
    assert desk.state("one") is JobState.SUBMITTED


def test_the_same_submission_again_is_answered_as_before_and_makes_no_second_job(desk: Desk) -> None:
    first = desk.submit("one", environment={"B": "2", "A": "1"})

    second = desk.submit("one", environment={"A": "1", "B": "2"})

    assert (second.accepted, second.count) == (first.accepted, first.count)
    assert desk.states() == {"submitted": 1}


def test_another_description_under_the_same_id_is_refused_and_says_what_to_do(desk: Desk) -> None:
    desk.submit("one")

    verdict = desk.submit("one", executable="other.sh")

    assert not verdict.accepted
    assert verdict.count == 0
    assert "choose another id" in verdict.reasons[0]
    assert desk.states() == {"submitted": 1}


def test_two_owners_may_use_the_same_id(desk: Desk) -> None:
    desk.submit("one", "site-a")

    verdict = desk.submit("one", "site-b", executable="other.sh")

    assert verdict.accepted
    assert desk.job("one", "site-a").job == "site-a/one.1"
    assert desk.job("one", "site-b").job == "site-b/one.1"


def test_an_input_that_the_store_lacks_refuses_the_job_until_it_is_there(desk: Desk) -> None:
    inputs = [Input(name="events.dat", sha256=DIGEST)]

    refused = desk.submit("one", inputs=inputs)
    accepted = desk.submit("one", inputs=inputs, stored=[DIGEST])

    assert "input 'events.dat'" in refused.reasons[0]
    assert "upload it first" in refused.reasons[0]
    assert accepted.accepted


def test_an_unsound_description_is_refused_with_its_reasons(desk: Desk) -> None:
    verdict = desk.submit("one", validation="check.py")

    assert not verdict.accepted
    assert "validation = 'check.py'" in verdict.reasons[0]
    assert desk.states() == {}


def test_a_description_that_would_not_fit_an_assignment_is_refused(desk: Desk) -> None:
    verdict = desk.submit("one", environment={"BIG": "x" * (1 << 20)})

    assert "upload its inputs" in verdict.reasons[0]


def test_an_array_becomes_a_job_for_each_index_in_order(desk: Desk) -> None:
    verdict = desk.submit("many", array=5)

    assert verdict.count == 5
    assert desk.states() == {"submitted": 5}
    numbers = [desk.job(f"many.{index}").number for index in range(1, 6)]
    assert numbers == sorted(numbers)


def test_a_batch_gives_a_verdict_for_each_also_for_repetitions_within_it(desk: Desk) -> None:
    plain, other = JobDescription(id="one", executable="a"), JobDescription(id="one", executable="b")
    batch = [("site-a", JobSubmit(job=job)) for job in (plain, plain, other)]
    batch.append(("site-a", JobSubmit(job=JobDescription(id="two", executable="a", array=3))))

    looked_at = [(owner, submissions.check(message, lambda digest: True)) for owner, message in batch]
    verdicts = desk.write(lambda tx: submissions.submit_all(tx, looked_at))

    assert [verdict.accepted for verdict in verdicts] == [True, True, False, True]
    assert [verdict.call for verdict in verdicts] == [message.id for _, message in batch]
    assert desk.states() == {"submitted": 4}


def test_the_store_is_asked_once_for_each_digest_of_a_submission() -> None:
    asked: list[str] = []
    inputs = [Input(name=name, sha256=DIGEST) for name in ("events.dat", "again.dat")]

    def is_known(digest: str) -> bool:
        asked.append(digest)
        return True

    submissions.check(JobSubmit(job=JobDescription(id="one", executable="a", inputs=inputs)), is_known)

    assert asked == [DIGEST]


def test_a_job_of_20_000_parts_is_written_in_one_transaction(desk: Desk) -> None:
    desk.submit("many", array=20_000)

    assert desk.states() == {"submitted": 20_000}
    assert desk.counts["jobs_submitted"] == 20_000


def test_an_owner_has_so_many_jobs_waiting_and_no_more(url: str) -> None:
    desk = Desk(url, FEW)
    assert desk.submit("some", array=4).accepted

    refused, small, other = desk.submit("more", array=2), desk.submit("last"), desk.submit("more", "site-b", array=5)
    again = desk.submit("some", array=4)

    has = "site-a has 4 jobs that wait or were cancelled, and may have 5"
    assert refused.reasons == [
        f"array = 2: {has}: delete what was cancelled, or submit this again once others have begun"
    ]
    assert (small.accepted, other.accepted, again.accepted) == (True, True, True)
    assert desk.states() == {"submitted": 10}

    for vm in ("vm-1", "vm-2", "vm-3"):
        desk.start(vm)
    assert desk.submit("more", array=2).accepted
    desk.ledger.close()


def test_who_submits_and_cancels_in_turn_fills_no_ledger(url: str) -> None:
    desk = Desk(url, FEW)
    for name in ("one", "two"):
        desk.submit(name, array=2)
        desk.cancel(name, "site-a")

    refused = desk.submit("three", array=2)
    deleted = desk.order(lambda tx: deletion.delete_named(tx, JobDelete(job="one"), "site-a"))

    assert "were cancelled" in refused.reasons[0]
    assert deleted.changed == 2
    assert desk.submit("three", array=2).accepted
    desk.ledger.close()


def test_what_is_sent_together_is_counted_together(url: str) -> None:
    desk = Desk(url, FEW)
    checked = [
        submissions.check(JobSubmit(job=JobDescription(id=f"j{n}", executable="x", array=2)), lambda _: True)
        for n in range(4)
    ]

    verdicts = desk.write(lambda tx: submissions.submit_all(tx, [("site-a", one) for one in checked]))

    assert [verdict.accepted for verdict in verdicts] == [True, True, False, False]
    desk.ledger.close()


def test_an_array_that_can_never_wait_is_told_so(url: str) -> None:
    desk = Desk(url, FEW)

    verdict = desk.submit("vast", array=6)

    assert verdict.reasons == ["array = 6: of one owner 5 jobs may wait at once: submit several smaller ones"]
    desk.ledger.close()
