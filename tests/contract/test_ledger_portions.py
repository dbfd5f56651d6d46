"""What comes all at once is done in portions between which others write, and counts whole from its first moment."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from adapters.errors import NotFound
from adapters.ledger import (
    arrays,
    assignments,
    attempts,
    claims,
    deletion,
    leases,
    orders,
    outbox,
    queries,
    requests,
    submissions,
    tables,
    timetable,
)
from adapters.ledger.deferred import Deferred
from adapters.ledger.engine import Ledger
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import PORTION, Tx
from schemas.codec import decode, unbundle
from schemas.description import JobDescription
from schemas.jobs import JobStop, Machine, Outcome
from schemas.ledger import JobCancel, JobDelete, JobShow, JobState, JobSubmit
from tests.contract.ledger_fixtures import SITE, SMALL, Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]

MANY = PORTION + 200


def ask_for(desk: Desk, vms: int, machine: Machine = SMALL) -> None:
    """Let so many VMs ask for work, in one transaction."""
    asked = [(f"vm-{number:05}", desk.request(machine=machine)) for number in range(vms)]
    desk.write(lambda tx: requests.ask_all(tx, asked))


def submit_only(desk: Desk, job_id: str, **fields: Any) -> Deferred:
    """Submit in one transaction, as an adapter does that is killed after it; gives what it has left."""
    job = JobDescription(id=job_id, executable="run.sh", **fields)
    checked = submissions.check(JobSubmit(id=desk.id(), job=job), lambda digest: True)

    def work(tx: Tx) -> tuple[Deferred, list[outbox.OutboxRow]]:
        submissions.submit(tx, SITE, checked)
        assignments.match(tx)
        return tx.deferred, outbox.fresh(tx)

    deferred, rows = desk.ledger.write(work)
    desk.sent += [decode(body) for row in rows for body in unbundle(row.body)]
    return deferred


def sweep(desk: Desk) -> int:
    """Keep the time until nothing is due; gives in how many transactions."""
    turns = 1
    while desk.write(timetable.keep):
        turns += 1
    return turns


def rows_read(ledger: Ledger, table: str) -> list[int]:
    """Note how many rows each statement gives that begins to read this table with a bound."""
    found: list[int] = []

    def note(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if table in statement and "lease_expires_ms <" in statement:
            found.append(int("LIMIT" in statement))

    for engine in ledger._open_engines:
        event.listen(engine, "after_cursor_execute", note)
    return found


def test_leases_that_run_out_together_are_given_up_in_portions(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MOST_EXPIRED", 5)
    bounded = rows_read(desk.ledger, "attempts")
    desk.submit("many", array=12)
    ask_for(desk, 12)
    desk.pass_s(desk.policy.lease_s + 1)

    expired = [desk.expire() for _ in range(4)]

    assert expired == [5, 5, 2, 0]
    assert bounded == [1] * 4
    assert desk.states() == {"submitted": 12}


def test_leases_that_a_pause_excuses_take_no_place_among_the_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MOST_EXPIRED", 2)
    desk.submit("many", array=6)
    for number in range(6):
        desk.beat(desk.start(f"vm-{number}"))
        desk.pass_s(1)
    desk.report("host-1", *(status(f"vm-{number}", "paused" if number < 4 else "running") for number in range(6)))
    desk.pass_s(desk.policy.lease_s + 1)

    assert desk.expire() == 2
    assert [desk.state(f"many.{number}") for number in (1, 5, 6)] == ["running", "submitted", "submitted"]


def test_vms_that_fall_silent_together_and_their_old_requests_go_in_portions(desk: Desk) -> None:
    ask_for(desk, MANY)
    desk.pass_s(desk.policy.silence_ms / 1000 + 1)
    turns = [sweep(desk)]
    blocked = desk.ledger.read(
        lambda tx: tx.execute(select(func.count()).where(tables.requests.c.state == "blocked")).scalar_one()
    )
    desk.pass_s(desk.policy.request_life_s)
    turns.append(sweep(desk))

    assert turns == [2, 2]
    assert blocked == MANY
    assert desk.ledger.read(queries.stats).requests == 0


def test_jobs_that_have_waited_long_enough_together_go_on_in_portions(url: str) -> None:
    desk = Desk(url, Policy(first_retry_s=5))
    desk.submit("many", array=MANY, attempts=2)
    ask_for(desk, MANY)
    for job in desk.assigned():
        desk.complete(job, Outcome.FAILED)
    desk.pass_s(3600)

    assert sweep(desk) >= 2
    waiting = desk.ledger.read(lambda tx: tx.execute(select(func.count()).where(tables.IS_WAITING)).scalar_one())
    desk.ledger.close()
    assert waiting == MANY


def test_many_slots_and_many_jobs_are_matched_in_portions_and_all_of_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignments, "MOST_PAIRS", 7)
    ask_for(desk, 20)
    most: list[int] = []
    write = desk.ledger.write

    def counted(work: Any) -> Any:
        def whole(tx: Tx) -> Any:
            given = work(tx)
            most.append(tx.counts["jobs_assigned"])
            return given

        return write(whole)

    monkeypatch.setattr(desk.ledger, "write", counted)

    desk.submit("many", array=25)

    assert most == [7, 7, 6]
    assert desk.states() == {"assigned": 20, "submitted": 5}


def test_long_descriptions_are_sent_a_few_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignments, "MOST_BYTES", 50_000)
    ask_for(desk, 10)
    deferred = submit_only(desk, "large", array=10, arguments=["x" * 1000] * 20)
    first = desk.states()

    desk.write(lambda tx: assignments.go_on(tx, deferred))

    assert first == {"assigned": 2, "submitted": 8}
    assert desk.states() == {"assigned": 10}


@pytest.fixture
def large(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk that makes 10 jobs of an array a transaction."""
    monkeypatch.setattr(arrays, "PORTION", 10)
    return desk


def made(desk: Desk) -> int:
    return int(desk.ledger.read(lambda tx: tx.execute(select(func.count()).select_from(tables.jobs)).scalar_one()))


def test_a_large_array_is_counted_whole_from_its_first_portion_on(large: Desk) -> None:
    for vm in range(10):
        large.ask(f"vm-{vm}")
    deferred = submit_only(large, "many", array=35)
    for job in large.assigned():
        large.complete(job)
    first = (made(large), large.states())

    large.write(lambda tx: assignments.go_on(tx, deferred))

    assert first[0] < 35
    assert sum(first[1].values()) == 35, "whoever waits for the array sees that most of it is to come"
    assert (made(large), large.states()) == (35, {"done": 10, "submitted": 25})


def test_an_array_whose_adapter_was_killed_is_finished_by_another_ones_sweep(large: Desk) -> None:
    submit_only(large, "many", array=35)
    again = large.submit("many", array=35)
    begun = made(large)
    other = Desk(large.ledger._url, instance="adapter-other")

    other.write(timetable.keep)
    other.ledger.close()

    assert (again.accepted, again.count) == (True, 35)
    assert (begun, made(large)) == (10, 35)
    assert large.job("many.35").state is JobState.SUBMITTED


def test_an_array_that_is_not_whole_holds_up_no_sweep(large: Desk) -> None:
    submit_only(large, "many", array=35)

    is_more, deferred = large.ledger.write(lambda tx: (timetable.keep(tx), tx.deferred))
    after_sweep = made(large)
    large.write(lambda tx: assignments.go_on(tx, deferred))

    assert (is_more, deferred.is_making, after_sweep) == (False, True, 20)
    assert made(large) == 35, "it is finished all the same"


def test_a_job_that_has_no_row_yet_is_said_to_come(large: Desk) -> None:
    submit_only(large, "many", array=35)

    for ask in (lambda: large.show("many.30"), lambda: large.cancel("many.30")):
        with pytest.raises(NotFound, match="its array is being written down, 10 of 35 jobs so far"):
            ask()
    with pytest.raises(NotFound, match="no such job"):
        large.ledger.read(lambda tx: queries.show(tx, JobShow(job=f"{SITE}/many.36")))
    sweep(large)
    assert large.state("many.30") is JobState.SUBMITTED


def test_a_cancel_of_an_array_that_is_being_made_leaves_none_to_run(large: Desk) -> None:
    submit_only(large, "many", array=35)
    large.ask("vm-1")

    answer = large.cancel("many")
    sweep(large)

    assert (answer.changed, answer.pending) == (35, 1)
    assert len(large.of_kind(JobStop)) == 1
    assert large.states() == {"cancelled": 35}


def test_a_deletion_of_what_there_is_of_an_array_leaves_its_rest(large: Desk) -> None:
    submit_only(large, "many", array=35)
    for number in range(1, 11):
        large.write(lambda tx, name=f"many.{number}": orders.cancel(tx, JobCancel(job=name)))

    large.order(lambda tx: deletion.delete_named(tx, JobDelete(job="many")))
    sweep(large)

    assert large.states() == {"submitted": 25}
    assert made(large) == 25


def made_at_once(desk: Desk, name: str) -> None:
    """As a release leaves a submission that made all its jobs at once and said nothing of it."""
    desk.submit(name, array=25)
    old = update(tables.submissions).where(tables.submissions.c.id == name)
    desk.write(lambda tx: tx.execute(old.values(made=0)))


def delete_first(desk: Desk, name: str) -> None:
    desk.cancel(f"{name}.1")
    desk.order(lambda tx: deletion.delete_named(tx, JobDelete(job=f"{name}.1")))


def test_an_array_that_an_older_release_made_is_whole_and_holds_up_no_other(large: Desk) -> None:
    """While adapters are replaced one by one, older ones write beside newer ones."""
    made_at_once(large, "old")
    delete_first(large, "old")
    deferred = submit_only(large, "new", array=35)

    large.write(lambda tx: assignments.go_on(tx, deferred))
    unmade = large.ledger.read(lambda tx: tx.execute(select(func.count()).where(tables.IS_UNMADE)).scalar_one())

    assert unmade == 0
    assert made(large) == 24 + 35, "what was deleted of it does not come back"
    assert large.states() == {"submitted": 24 + 35}


def test_what_an_older_release_made_can_be_cancelled_and_deleted_before_a_sweep_has_seen_it(large: Desk) -> None:
    made_at_once(large, "old")
    delete_first(large, "old")

    with pytest.raises(NotFound, match="no such job"):
        large.show("old.1")
    answer = large.cancel("old")
    large.order(lambda tx: deletion.delete_named(tx, JobDelete(job="old")))

    assert answer.changed == 24
    left = select(func.count()).select_from(tables.submissions)
    assert large.ledger.read(lambda tx: tx.execute(left).scalar_one()) == 0


def test_tallies_do_not_grow_with_reconnects(desk: Desk) -> None:
    for number in range(6):
        desk.submit(f"job-{number}")
        for engine in desk.ledger._open_engines:
            engine.dispose()

    count = select(func.count()).select_from(tables.tallies).where(tables.tallies.c.submission == 0)
    assert desk.ledger.read(lambda tx: tx.execute(count).scalar_one()) == 1
    assert desk.states() == {"submitted": 6}


def test_who_changes_nothing_waits_for_no_writer(desk: Desk) -> None:
    """A store's cleaner asks about an attempt whose row a completion holds."""
    desk.submit("one")
    job = desk.start()
    named, is_held, may_end = [(job.job, job.attempt)], threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        attempts.by_ref(tx, named)
        is_held.set()
        assert may_end.wait(30)

    writer = threading.Thread(target=lambda: desk.ledger.write(hold), daemon=True)
    writer.start()
    assert is_held.wait(30)
    answer: list[object] = []
    reader = threading.Thread(
        target=lambda: answer.append(desk.ledger.read(lambda tx: claims.unclaimed_attempts(tx, named, 0))),
        daemon=True,
    )
    reader.start()
    reader.join(10)
    was_answered = bool(answer)
    may_end.set()
    for thread in (writer, reader):
        thread.join(30)

    assert was_answered
