"""The ledger keeps what an edge is to tell a job's source until that has been done, or a person must look."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from alembic import command
from sqlalchemy import select, text

from adapters.errors import AlreadyTold, NotFound, SourceInUse
from adapters.ledger import acquisitions, claims, deletion, deliveries, retention, sources, submissions, tables
from adapters.ledger.acquisitions import Acquisition, AcquisitionKey, owner_of
from adapters.ledger.connections import connect
from adapters.ledger.deliveries import AFFIRM, CLAIM_MS, MOST_TRIES, PORTION, DueDelivery, Key
from adapters.ledger.migrations import migrate
from adapters.ledger.migrations.upgrading import config
from adapters.ledger.submissions import MOST_SOURCE_BYTES, Origin
from adapters.ledger.transaction import Tx
from schemas.description import JobDescription
from schemas.grids import SourceDelete, SourceList, SourceRetry, SourceRow, Sources
from schemas.jobs import Outcome
from schemas.ledger import JobDelete, JobSubmit, JobVerdict
from tests.contract.ledger_fixtures import SITE, Desk, cluster, desk, empty_url, url

__all__ = ["cluster", "desk", "empty_url", "url"]

LATER_S = 7 * 3600
DIRAC = Origin("dirac", b"wms 7")


def bring(desk: Desk, job_id: str = "one", origin: Origin | None = DIRAC, **more: Any) -> JobVerdict:
    """Submit as an edge does."""
    message = JobSubmit(id=desk.id(), job=JobDescription(id=job_id, executable="run.sh", **more))
    checked = submissions.check(message, lambda digest: True, origin)
    return desk.write(lambda tx: submissions.submit(tx, SITE, checked))


def end(desk: Desk, outcome: Outcome = Outcome.DONE) -> None:
    desk.complete(desk.start(), outcome)


def take(desk: Desk, source: str = "dirac") -> list[DueDelivery]:
    return desk.write(lambda tx: deliveries.take(tx, source))


def fail(desk: Desk, *taken: DueDelivery, error: str = "503") -> None:
    desk.write(lambda tx: deliveries.failed(tx, {one.key: error for one in taken}))


def rows(desk: Desk) -> list[tuple[str, int, str]]:
    statement = select(tables.deliveries.c.state, tables.deliveries.c.tries, tables.deliveries.c.error)
    return [tuple(row) for row in desk.ledger.read(lambda tx: tx.execute(statement).all())]


def is_any_due(desk: Desk, source: str = "dirac") -> bool:
    return desk.ledger.read(lambda tx: deliveries.is_any_due(tx, source))


def test_whether_something_is_due_is_known_without_taking_it(desk: Desk) -> None:
    bring(desk)
    before = is_any_due(desk)
    end(desk)
    ended = is_any_due(desk), is_any_due(desk, "panda")
    (one,) = take(desk)
    taken = is_any_due(desk)
    desk.pass_s(CLAIM_MS / 1000)
    again = is_any_due(desk)
    (one,) = take(desk)
    desk.write(lambda tx: deliveries.done(tx, [one.key]))

    assert (before, ended, taken, again, is_any_due(desk)) == (False, (True, False), False, True, False)


def test_an_edge_is_given_the_end_of_a_job_and_what_it_kept_with_it(desk: Desk) -> None:
    bring(desk)
    before = take(desk)
    end(desk)

    (one,) = take(desk)

    assert before == []
    assert (one.job, one.state, one.source_data, one.tries) == (f"{SITE}/one.1", "done", b"wms 7", 1)


@pytest.mark.parametrize("is_at_work", [False, True])
def test_a_cancelled_job_has_ended_too(desk: Desk, is_at_work: bool) -> None:
    bring(desk)
    if is_at_work:
        desk.start()
    desk.cancel("one")

    assert [one.state for one in take(desk)] == ["cancelled"]


def test_a_job_that_is_tried_again_has_not_ended_and_one_that_is_held_has(desk: Desk) -> None:
    bring(desk, attempts=2)
    end(desk, Outcome.FAILED)
    while_tried_again = take(desk)
    desk.pass_s(100)
    end(desk, Outcome.FAILED)
    (held,) = take(desk)
    desk.write(lambda tx: deliveries.stepped(tx, held.key, "uploaded", b"there"))
    fail(desk, held)
    desk.retry("one")
    desk.pass_s(CLAIM_MS / 1000)
    while_released = take(desk)
    end(desk)
    (done,) = take(desk)

    assert (while_tried_again, while_released) == ([], [])
    assert held.state == "held"
    assert (done.state, done.step, done.kept, done.tries) == ("done", "", b"", 1)


def test_a_job_does_not_run_again_once_its_source_is_told_that_it_failed(desk: Desk) -> None:
    bring(desk, attempts=1)
    end(desk, Outcome.FAILED)
    (held,) = take(desk)
    with pytest.raises(AlreadyTold, match="dirac is just being told"):
        desk.retry("one")
    desk.write(lambda tx: deliveries.done(tx, [held.key]))

    with pytest.raises(AlreadyTold, match=f"job = {SITE}/one.1: dirac was told that it has failed: submit it there"):
        desk.retry("one")

    assert desk.states() == {"held": 1}


def test_what_was_told_is_looked_at_once_more_later_and_counts_as_told_meanwhile(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    bring(desk, attempts=1)
    end(desk, Outcome.FAILED)
    (told,) = take(desk)
    desk.write(lambda tx: deliveries.stepped(tx, told.key, "stage-out", b"kept"))
    desk.write(lambda tx: deliveries.affirm(tx, [told.key], 60))
    at_once, (row,) = take(desk), desk.ledger.read(lambda tx: sources.listed(tx, SourceList())).sources
    named = desk.ledger.read(lambda tx: sources.open_jobs(tx, "dirac"))
    why = desk.show("one").cause
    with pytest.raises(AlreadyTold, match="was told that it has failed"):
        desk.retry("one")
    desk.pass_s(60)
    (later,) = take(desk)

    assert (at_once, row.owed, row.held, named) == ([], 0, 0, [])
    assert "dirac" not in why
    assert (later.key.what, later.kept, later.tries) == (AFFIRM, b"kept", 1)
    fail(desk, later, error="503")
    assert "looking whether dirac still knows it failed, try 1: 503; again in" in desk.show("one").cause
    desk.pass_s(LATER_S)
    (again,) = take(desk)
    desk.write(lambda tx: deliveries.done(tx, [again.key]))
    desk.pass_s(LATER_S)
    assert (take(desk), rows(desk)) == ([], [])


def test_a_job_that_ends_again_once_it_was_told_is_looked_at_for_its_later_word(desk: Desk) -> None:
    bring(desk, attempts=1)
    lost = desk.start()
    desk.complete(lost, Outcome.FAILED)
    for _ in range(2):
        (due,) = take(desk)
        desk.write(lambda tx, due=due: deliveries.affirm(tx, [due.key], 60))
        desk.write(lambda tx, due=due: deliveries.put(tx, [due.key.job]))
    (due,) = take(desk)
    desk.write(lambda tx: deliveries.affirm(tx, [due.key], 60))
    desk.pass_s(60)

    assert [one.key.what for one in take(desk)] == [AFFIRM]


def test_what_is_done_in_steps_goes_on_after_the_last_that_is_written_down(desk: Desk) -> None:
    bring(desk)
    end(desk)
    (first,) = take(desk)
    desk.write(lambda tx: deliveries.stepped(tx, first.key, "uploaded", b"there"))
    fail(desk, first, error="the catalogue is away")
    desk.pass_s(LATER_S)
    (second,) = take(desk)

    assert (first.step, first.kept) == ("", b"")
    assert (second.step, second.kept, second.tries) == ("uploaded", b"there", 1)
    assert rows(desk)[0][2] == "the catalogue is away"


def test_what_a_site_or_a_person_submitted_is_nobodys_to_deliver(desk: Desk) -> None:
    bring(desk, origin=None)
    desk.submit("two", owner="console-ada")
    end(desk)
    desk.cancel("two")

    origins = desk.ledger.read(lambda tx: tx.execute(select(tables.submissions.c.source)).scalars().all())
    assert sorted(origins) == ["console", "site"]
    assert rows(desk) == []


def test_a_source_gets_its_own(desk: Desk) -> None:
    for source in ("dirac", "panda"):
        bring(desk, source, Origin(source, source.encode()))
        end(desk)

    assert [one.source_data for one in take(desk, "panda")] == [b"panda"]
    assert [one.source_data for one in take(desk, "dirac")] == [b"dirac"]


def test_what_is_done_is_gone_and_said_again_it_is_no_error(desk: Desk) -> None:
    bring(desk)
    end(desk)
    keys = [one.key for one in take(desk)]
    desk.write(lambda tx: deliveries.done(tx, [one._replace(claim=7) for one in keys]))
    assert len(rows(desk)) == 1

    for _ in range(2):
        desk.write(lambda tx: deliveries.done(tx, [*keys, Key(99, "ended")]))

    assert rows(desk) == []


def test_what_one_has_taken_another_does_not_get_until_its_time_is_over(desk: Desk) -> None:
    bring(desk)
    end(desk)
    first, second = take(desk), take(desk)
    desk.pass_s(CLAIM_MS / 1000)

    (again,) = take(desk)

    assert (len(first), second) == (1, [])
    assert (again.key, again.tries) == (first[0].key._replace(claim=again.key.claim), 2)


def test_what_fails_is_tried_again_later_and_each_time_later(desk: Desk) -> None:
    bring(desk)
    end(desk)
    fail(desk, *take(desk), error="503\0")
    at_once = take(desk)
    desk.pass_s(11)
    second = take(desk)

    assert at_once == []
    assert [one.tries for one in second] == [2]
    assert rows(desk)[0][2] == "503\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(("says", "error"), [(True, "503"), (False, deliveries.UNANSWERED)])
def test_what_was_tried_too_often_is_held_with_its_reason(desk: Desk, says: bool, error: str) -> None:
    """Also where whoever takes it dies of it, and never says that it failed."""
    bring(desk)
    end(desk)
    tries = []
    for _ in range(MOST_TRIES + 2):
        taken = take(desk)
        tries += [one.tries for one in taken]
        if says:
            fail(desk, *taken)
        desk.pass_s(LATER_S)

    assert tries == list(range(1, MOST_TRIES + 1))
    assert rows(desk) == [("held", MOST_TRIES, error)]


def test_what_is_due_comes_in_portions_the_oldest_first(desk: Desk) -> None:
    bring(desk, "many", array=PORTION + 5)
    desk.cancel("many")

    first, second = take(desk), take(desk)

    assert (len(first), len(second)) == (PORTION, 5)
    assert [one.key.job for one in first + second] == sorted(one.key.job for one in first + second)


def test_a_transaction_that_fails_leaves_no_delivery(desk: Desk) -> None:
    bring(desk)
    job = desk.start()
    with pytest.raises(LookupError):
        desk.ledger.write(lambda tx: (deliveries.put(tx, [1]), {}["on purpose"]))

    assert job.attempt == 1
    assert rows(desk) == []


def test_a_delivery_goes_with_its_job(desk: Desk) -> None:
    bring(desk)
    end(desk)

    desk.order(lambda tx: deletion.delete_named(tx, JobDelete(id=desk.id(), job="one")))

    assert rows(desk) == []


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        (Origin("", b""), "must have 1 to 42 characters"),
        (Origin("d" * 43, b""), "must have 1 to 42 characters"),
        (Origin("dirac", b"x" * (MOST_SOURCE_BYTES + 1)), "at most 65536 are kept"),
    ],
)
def test_what_an_edge_keeps_with_a_submission_is_bounded(desk: Desk, origin: Origin, said: str) -> None:
    verdict = bring(desk, origin=origin)

    assert not verdict.accepted
    assert said in verdict.reasons[0]


def test_of_an_older_ledgers_submissions_their_owner_tells_the_source_and_kinds_are_known(
    empty_url: str,
) -> None:
    engine = connect(empty_url, "FULL").durable
    with engine.begin() as connection:
        made = config()
        made.attributes["connection"] = connection
        command.upgrade(made, "0010")
        connection.execute(text("INSERT INTO shapes (number, key) VALUES (1, '{}')"))
        for number, owner in enumerate(("site-a", "console-ada"), 1):
            connection.execute(
                text(
                    "INSERT INTO submissions (number, owner, id, digest, description, count, attempts, shape, rank, "
                    "submitted_ms, made) VALUES (:number, :owner, 'j', 'd', :none, 1, 1, 1, 0, 1, 1)"
                ),
                {"number": number, "owner": owner, "none": b""},
            )

    migrate(engine)

    with engine.begin() as connection:
        found = connection.execute(text("SELECT owner, source, source_data FROM submissions ORDER BY number")).all()
        kinds = connection.execute(text("SELECT owner, shape FROM kinds ORDER BY owner")).all()
    engine.dispose()
    assert [tuple(row) for row in found] == [("site-a", "", None), ("console-ada", "", None)]
    assert [tuple(row) for row in kinds] == [("console-ada", 1), ("site-a", 1)]


def test_a_job_of_which_its_source_is_still_to_be_told_goes_neither_for_its_age_nor_for_room(desk: Desk) -> None:
    bring(desk)
    end(desk)
    desk.pass_s(40 * 86400)
    jobs = next(one for one in retention.kinds(retention.Keep()) if one.what == "jobs")
    old = desk.ledger.read(jobs.find)
    for_room = desk.ledger.read(lambda tx: claims.ended_first(tx, SITE, None, 10))

    desk.write(lambda tx: deliveries.done(tx, [one.key for one in deliveries.take(tx, "dirac")]))

    assert (list(old), for_room) == ([], [])
    assert (
        len(desk.ledger.read(jobs.find))
        == len(desk.ledger.read(lambda tx: claims.ended_first(tx, SITE, None, 10)))
        == 1
    )


def test_what_an_adapter_says_that_it_is_not_at_is_due_at_once_and_what_it_is_at_is_kept(desk: Desk) -> None:
    for name in ("one", "two"):
        bring(desk, name)
        end(desk)
    kept, lost = take(desk)

    desk.write(lambda tx: deliveries.renew(tx, "dirac", [kept.key]))
    again = take(desk)

    assert [one.job for one in again] == [lost.job]
    assert again[0].key.claim == lost.key.claim + 1


def forget(desk: Desk, *, give_up: bool = False) -> list[SourceRow]:
    message = SourceDelete(source="dirac", give_up=give_up)
    return desk.write(lambda tx: sources.forget(tx, message)).sources


def listed(desk: Desk) -> list[str]:
    return [row.source for row in desk.ledger.read(lambda tx: sources.listed(tx, SourceList())).sources]


def test_a_source_is_forgotten_once_its_adapter_is_gone_and_nothing_of_it_is_left(desk: Desk) -> None:
    for name in ("dirac", "lyon"):
        desk.write(lambda tx, name=name: sources.seen(tx, name, "memory", ""))
    with pytest.raises(SourceInUse, match="source = 'dirac': its adapter was heard of 0 s ago: stop it, and wait"):
        forget(desk)
    desk.pass_s(60)

    assert (forget(desk), listed(desk)) == ([], ["lyon"])
    with pytest.raises(NotFound, match="source = 'dirac': no source bears that name; known: lyon"):
        forget(desk)


def test_what_is_left_of_a_source_is_named_and_given_up_only_when_that_is_said(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PORTION", 2)
    owner = owner_of("dirac")
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    given = [Acquisition(key=AcquisitionKey("dirac", str(n), 1), data=b"", work=b"work") for n in range(3)]
    desk.write(lambda tx: acquisitions.put(tx, given))
    message = JobSubmit(id=desk.id(), job=JobDescription(id="one", executable="run.sh"))
    checked = submissions.check(message, lambda digest: True, DIRAC)
    desk.write(lambda tx: submissions.submit(tx, owner, checked))
    desk.pass_s(60)
    for give_up in (False, True):
        with pytest.raises(SourceInUse, match=f"a job of it waits or runs here, {owner}/one.1: cancel it") as refused:
            forget(desk, give_up=give_up)
        assert refused.value.hint.startswith(f"`volcloud job cancel {owner}/one.1`; then `volcloud source delete dirac")
    end(desk)
    said = rf"jobs that it gave are none here yet \(0, 1 and 2\); 1 job has ended .* told so yet \({owner}/one.1\)$"
    with pytest.raises(SourceInUse, match=f"source = 'dirac': 3 {said}") as refused:
        forget(desk)
    assert "`volcloud source delete dirac --give-up`" in refused.value.hint

    left = []
    while rest := forget(desk, give_up=True):
        left.append((rest[0].acquired, rest[0].owed))

    assert left == [(1, 0)]
    assert (listed(desk), rows(desk), desk.job("one.1", owner).state) == ([], [], "done")


def test_what_is_only_to_be_looked_at_once_more_is_left_of_a_source_too(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    bring(desk)
    end(desk)
    (told,) = take(desk)
    desk.write(lambda tx: deliveries.affirm(tx, [told.key], 3600))
    desk.pass_s(60)

    with pytest.raises(SourceInUse, match=rf"'dirac': 1 end was told it and is .* once more \({SITE}/one.1\)$"):
        forget(desk)


def test_of_many_that_are_left_of_a_source_some_are_named(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    given = [Acquisition(key=AcquisitionKey("dirac", f"{n}\n", 1), data=b"", work=b"work") for n in range(5)]
    desk.write(lambda tx: acquisitions.put(tx, given))
    desk.pass_s(60)

    with pytest.raises(SourceInUse, match=r"5 jobs that it gave are none here yet \(as 0\\n, 1\\n, 2\\n\)$"):
        forget(desk)


def test_a_source_whose_adapter_is_silent_is_said_to_be_in_trouble_for_that(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    desk.write(lambda tx: sources.seen(tx, "lyon", "memory", "503"))
    seen_ms = desk.ledger.read(lambda tx: tx.now_ms)

    def troubles() -> list[tuple[str, int]]:
        found = desk.ledger.read(lambda tx: sources.listed(tx, SourceList())).sources
        return [(row.trouble, row.trouble_ms) for row in found]

    desk.pass_s(59)
    before = troubles()
    desk.pass_s(1)

    assert before == [("", 0), ("503", seen_ms)]
    silent = "its adapter is not heard of any more"
    assert troubles() == [(silent, seen_ms), (f"{silent}; it said last: 503", seen_ms)]


def retried(desk: Desk) -> int:
    return desk.write(lambda tx: sources.retry(tx, SourceRetry(source="dirac"))).sources[0].retried


def test_whatever_of_a_source_has_failed_is_tried_again_at_once_and_what_an_adapter_is_at_is_left(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    for name in ("held", "failed", "taken"):
        bring(desk, name)
        end(desk)
    held, failed, _ = take(desk)
    desk.write(lambda tx: deliveries.hold(tx, {held.key: "no such place"}))
    fail(desk, failed)
    given = [Acquisition(key=AcquisitionKey("dirac", name, 1), data=b"", work=b"work") for name in ("failed", "taken")]
    desk.write(lambda tx: acquisitions.put(tx, given))
    first, _ = desk.write(lambda tx: acquisitions.take(tx, "dirac"))
    desk.write(lambda tx: acquisitions.again(tx, first, "503"))

    assert (retried(desk), retried(desk)) == (3, 0)

    assert [(one.job, one.tries) for one in take(desk)] == [(held.job, 1), (failed.job, 1)]
    fetched = desk.write(lambda tx: acquisitions.take(tx, "dirac"))
    assert [(one.key, one.tries) for one in fetched] == [(first.key, 1)]


def test_what_has_failed_and_was_taken_again_is_left_to_who_has_it(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    bring(desk)
    end(desk)
    fail(desk, *take(desk))
    desk.write(lambda tx: acquisitions.put(tx, [Acquisition(key=AcquisitionKey("dirac", "a", 1), data=b"", work=b"")]))
    (one,) = desk.write(lambda tx: acquisitions.take(tx, "dirac"))
    desk.write(lambda tx: acquisitions.again(tx, one, "503"))
    desk.pass_s(60)
    assert len(take(desk)) == len(desk.write(lambda tx: acquisitions.take(tx, "dirac"))) == 1

    assert (retried(desk), take(desk)) == (0, [])


@pytest.mark.parametrize("ending", ["held", "cancelled"])
def test_a_job_whose_source_was_told_is_to_be_submitted_there_again(desk: Desk, ending: str) -> None:
    bring(desk, attempts=1)
    if ending == "held":
        end(desk, Outcome.FAILED)
    else:
        desk.cancel("one")
    (told,) = take(desk)
    before = desk.show("one").next_step
    desk.write(lambda tx: deliveries.affirm(tx, [told.key], 3600))

    step = desk.show("one").next_step

    assert before.startswith("wait: it is tried again by itself")
    assert ("job retry" in step, "new id" in step, "dirac" in step, "again" in step) == (False, False, True, True)
    if ending == "held":
        with pytest.raises(AlreadyTold) as refused:
            desk.retry("one")
        assert refused.value.hint == "submit it to dirac under a new name"


def test_of_a_job_whose_source_has_no_adapter_any_more_that_is_said(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    bring(desk)
    end(desk)
    while_there = desk.show("one")
    desk.pass_s(300)
    due = desk.show("one")
    desk.write(lambda tx: deliveries.hold(tx, {one.key: "no such place" for one in deliveries.take(tx, "dirac")}))
    held = desk.show("one")

    gone = "if it is gone for good, `volcloud source delete dirac --give-up`"
    assert (while_there.cause, while_there.next_step[:5]) == ("done here; dirac is being told", "wait:")
    assert due.cause == "done here; dirac is being told; its adapter has not been heard of for 5 min"
    assert due.next_step == f"start the adapter of dirac; {gone}"
    assert held.next_step == (
        f"start the adapter of dirac, mend what it names, then `volcloud source retry dirac`; {gone}"
    )


def test_two_who_give_up_what_is_left_of_a_source_leave_nothing_of_it(desk: Desk) -> None:
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    given = [Acquisition(key=AcquisitionKey("dirac", str(n), 1), data=b"", work=b"work") for n in range(2500)]
    desk.write(lambda tx: acquisitions.put(tx, given))
    desk.pass_s(60)
    message, in_midst, over = SourceDelete(source="dirac", give_up=True), threading.Event(), threading.Event()
    answers: list[Sources] = []

    def slowly(tx: Tx) -> Sources:
        answer = sources.forget(tx, message)
        in_midst.set()
        over.wait(0.5)
        return answer

    first, second = (
        threading.Thread(target=lambda work=work: answers.append(desk.ledger.write(work)), daemon=True)  # type: ignore[misc]
        for work in (slowly, lambda tx: sources.forget(tx, message))
    )
    first.start()
    assert in_midst.wait(30)
    second.start()
    for thread in (first, second):
        thread.join(60)

    assert [answer.sources[0].acquired for answer in answers] == [1500, 500]
    assert (forget(desk, give_up=True), listed(desk)) == ([], [])


def test_a_source_whose_clock_was_ahead_is_forgotten_as_others_are(desk: Desk) -> None:
    desk.set_wall(3650)
    desk.write(lambda tx: sources.seen(tx, "dirac", "memory", ""))
    desk.set_wall(0)

    assert forget(desk) == []


def test_an_adapter_that_was_stopped_in_order_has_not_tried(desk: Desk) -> None:
    bring(desk)
    end(desk)
    tries = []
    for has_ended in (False, True):
        for _ in range(3):
            (taken,) = take(desk)
            tries.append(taken.tries)
            desk.write(lambda tx, has_ended=has_ended: deliveries.renew(tx, "dirac", (), has_ended=has_ended))

    assert tries == [1, 1, 1, 1, 2, 3]
