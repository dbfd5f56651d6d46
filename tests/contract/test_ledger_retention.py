"""Nothing is kept for ever: what has ended goes by age or by an order, and what waits or runs never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Table, func, select, update

from adapters.errors import NotFound
from adapters.ledger import claims, clock, deletion, known, orders, outbox, queries, retention, tables
from adapters.ledger.retention import DueRows, Keep
from adapters.ledger.transaction import Tx
from broker.routes import down
from schemas.description import Input, Requirements
from schemas.envelope import Ping
from schemas.ids import uuid7
from schemas.jobs import Machine, Outcome, Phase
from schemas.ledger import JobDelete, JobsChanged, JobState
from tests.contract.ledger_fixtures import SITE, SMALL, Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]

DAY_S = 86400.0
DIGEST = "a" * 64


def delete(desk: Desk, job: str, owner: str = "") -> JobsChanged:
    return desk.order(lambda tx: deletion.delete_named(tx, JobDelete(job=job), owner))


def retain(desk: Desk, keep: Keep | None = None) -> dict[str, int]:
    """Delete all that has outlived its time, as the adapter does."""
    for mark in retention.marks():
        go_through(desk, mark)
    gone = {kind.what: go_through(desk, kind) for kind in retention.kinds(keep or Keep())}
    return {what: count for what, count in gone.items() if count}


def go_through(desk: Desk, kind: DueRows) -> int:
    total = 0
    while found := desk.ledger.read(kind.find):
        total += desk.ledger.write(lambda tx, found=found: kind.remove(tx, found))
    return total


def count(desk: Desk, table: Table) -> int:
    return int(desk.ledger.read(lambda tx: tx.execute(select(func.count()).select_from(table)).scalar_one()))


def removals(desk: Desk) -> list[tuple[str, int]]:
    rows = desk.ledger.read(lambda tx: tx.execute(select(tables.removals)).all())
    return [(row.ref, row.attempt) for row in rows]


def run(desk: Desk, job_id: str, outcome: Outcome = Outcome.DONE, **fields: Any) -> None:
    desk.submit(job_id, **fields)
    desk.complete(desk.start("vm-1"), outcome)


def test_jobs_that_ended_long_ago_go_with_all_that_belongs_to_them(desk: Desk) -> None:
    run(desk, "old", Outcome.FAILED, attempts=2, stored=[DIGEST], inputs=[Input(name="i", sha256=DIGEST)])
    desk.complete(desk.start("vm-1"))
    desk.pass_s(29 * DAY_S)
    run(desk, "young")
    desk.pass_s(2 * DAY_S)

    gone = retain(desk)

    assert gone["jobs"] == 1
    assert [count(desk, table) for table in (tables.jobs, tables.attempts, tables.submissions)] == [1, 1, 1]
    assert count(desk, tables.inputs) == 0
    assert removals(desk) == [(f"{SITE}/old.1", 2)]
    assert desk.states() == {"done": 1}


def test_what_waits_runs_or_is_held_outlives_every_age_of_ended_jobs(desk: Desk) -> None:
    desk.submit("runs")
    job = desk.start("vm-2")
    run(desk, "held", Outcome.FAILED, attempts=1)
    desk.submit("waits", requirements=Requirements(cpus=99))
    desk.pass_s(89 * DAY_S)
    desk.beat(job)

    before = retain(desk)
    desk.pass_s(2 * DAY_S)
    desk.beat(job)
    after = retain(desk)

    assert "jobs" not in before
    assert after["jobs"] == 1
    assert desk.states() == {"running": 1, "submitted": 1}


@pytest.mark.parametrize("state", ["submitted", "running"])
def test_a_job_that_waits_or_runs_is_left_and_counted(desk: Desk, state: str) -> None:
    desk.submit("many", array=3)
    job = desk.start("vm-1")
    desk.complete(job) if state == "submitted" else desk.beat(job)
    if state == "running":
        for ended in ("many.2", "many.3"):
            desk.cancel(ended)

    answer = delete(desk, "many")

    expected = {"submitted": (1, 2), "running": (2, 1)}[state]
    assert (answer.changed, answer.pending) == expected
    assert desk.states() == {state: expected[1]}


def test_one_job_of_an_array_is_deleted_alone_and_the_array_with_its_last(desk: Desk) -> None:
    desk.submit("many", array=2)
    desk.cancel("many")

    answers = [delete(desk, "many.2"), delete(desk, "many.1")]

    assert [(answer.changed, answer.pending) for answer in answers] == [(1, 0), (1, 0)]
    assert [count(desk, table) for table in (tables.jobs, tables.submissions)] == [0, 0]
    with pytest.raises(NotFound):
        delete(desk, "many")


def test_a_delete_is_confined_to_the_owner_and_goes_in_portions(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "PORTION", 4)
    monkeypatch.setattr(deletion, "PORTION", 4)
    for owner in (SITE, "site-b"):
        desk.submit("many", owner, array=10)
        desk.cancel(f"{owner}/many")

    answer = delete(desk, "many", "site-b")

    assert (answer.changed, answer.pending) == (10, 0)
    assert desk.states() == {"cancelled": 10}


def test_a_deleted_name_may_be_submitted_anew_and_begins_with_a_later_attempt(desk: Desk) -> None:
    desk.submit("again", attempts=3)
    old = desk.start("vm-1")
    desk.complete(old, Outcome.FAILED)
    second = desk.start("vm-1")
    desk.complete(second)
    delete(desk, "again")

    accepted = desk.submit("again", executable="other.sh")
    anew = desk.start("vm-1")
    late = desk.complete(old)

    assert accepted.accepted
    assert (anew.attempt, anew.executable) == (3, "other.sh")
    assert (late.counted, late.reason) == (False, "unknown_attempt")
    assert removals(desk) == [(f"{SITE}/again.1", 2)]
    assert desk.complete(anew).counted


def test_the_trace_of_a_deleted_name_goes_too(desk: Desk) -> None:
    run(desk, "one")
    delete(desk, "one")
    desk.pass_s(31 * DAY_S)

    gone = retain(desk)

    assert gone["traces"] == 1
    assert count(desk, tables.deleted) == 0


def test_vms_that_their_host_no_longer_has_are_forgotten_after_a_while(desk: Desk) -> None:
    desk.hello("vm-old")
    desk.report("host-1", status("vm-old"), status("vm-keeps"))
    desk.report("host-1", status("vm-keeps"))
    desk.hello("vm-unreported")

    before = retain(desk)
    desk.pass_s(8 * DAY_S)
    desk.report("host-1", status("vm-keeps"))
    after = retain(desk)

    assert before == {}
    assert after["vms"] == 2
    assert desk.ledger.read(lambda tx: tx.execute(select(tables.vms.c.vm)).scalars().all()) == ["vm-keeps"]


def test_an_absent_vm_that_still_holds_a_job_is_not_forgotten(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.submit("one")
    desk.start("vm-1")
    desk.report("host-1")
    desk.pass_s(8 * DAY_S)

    assert "vms" not in retain(desk)


def test_a_host_that_is_not_heard_of_goes_with_its_vms(desk: Desk) -> None:
    desk.report("host-1", *(status(f"vm-{number}") for number in range(3)))
    desk.pass_s(50 * DAY_S)
    desk.report("host-2", status("vm-9"))
    desk.pass_s(50 * DAY_S)

    gone = retain(desk)

    assert gone["hosts"] == 4
    assert (count(desk, tables.hosts), count(desk, tables.vms)) == (1, 1)


def test_kinds_of_machines_and_jobs_go_once_nothing_is_of_them(desk: Desk) -> None:
    for number in range(5):
        run(desk, f"one-{number}", requirements=Requirements(memory_mib=number))
        delete(desk, f"one-{number}")
    desk.submit("stays", requirements=Requirements(memory_mib=99))
    retain(desk)
    desk.pass_s(3 * 3600)
    desk.submit("back", requirements=Requirements(memory_mib=3))

    gone = retain(desk)
    desk.ledger._known.shape_numbers.clear()
    desk.ask("vm-1", machine=SMALL)

    assert gone["shapes"] == 4
    assert (count(desk, tables.shapes), count(desk, tables.kinds)) == (2, 2)
    assert desk.assigned()[-1].job == f"{SITE}/stays.1"


def test_a_kind_that_comes_back_while_it_is_retired_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run(desk, "one", requirements=Requirements(memory_mib=5))
    delete(desk, "one")
    retain(desk)
    monkeypatch.setattr(known, "NUMBERS_LIFE_S", 0.0)
    desk.submit("other", requirements=Requirements(memory_mib=6))
    desk.submit("two", requirements=Requirements(memory_mib=5))

    retired = desk.ledger.read(
        lambda tx: tx.execute(select(func.count()).where(tables.shapes.c.retired_ms > 0)).scalar_one()
    )

    assert retired == 0


def test_a_message_that_the_broker_never_took_is_given_up_after_a_day(desk: Desk) -> None:
    def put(tx: Tx) -> None:
        outbox.put(tx, outbox.Route("vc.down", "vm.1"), Ping(id=uuid7()))

    desk.ledger.write(put)
    real = desk.now_ms

    desk.now_ms = 4_000_000_000_000
    gone = retain(desk)
    desk.now_ms = real

    assert gone["messages"] == 1
    assert count(desk, tables.outbox) == 0


@pytest.mark.parametrize("change", ["retried", "beating"])
def test_what_came_to_life_between_the_search_and_the_deletion_stays(desk: Desk, change: str) -> None:
    if change == "retried":
        run(desk, "one", Outcome.FAILED, attempts=1)
    else:
        desk.report("host-1", status("vm-1"))
        desk.report("host-1")
    desk.pass_s(91 * DAY_S)
    kind = next(kind for kind in retention.kinds(Keep()) if kind.what == {"retried": "jobs", "beating": "vms"}[change])
    found = desk.ledger.read(kind.find)
    act: dict[str, Callable[[], object]] = {"retried": lambda: desk.retry("one"), "beating": lambda: desk.hello("vm-1")}
    act[change]()

    removed = desk.ledger.write(lambda tx: kind.remove(tx, found))

    assert found
    assert removed == 0


@pytest.mark.parametrize(("before", "after"), [(-26 * 365, 0), (0, -400), (400, 0)])
def test_a_clock_that_is_set_right_makes_nothing_old(desk: Desk, before: float, after: float) -> None:
    """Ended and held jobs, a VM and a host that have just gone, a message, a name, kinds of jobs and machines."""
    desk.set_wall(before)
    desk.report("host-1", status("vm-1"), status("vm-gone"))
    desk.hello("vm-gone")
    run(desk, "done")
    run(desk, "held", Outcome.FAILED, attempts=1)
    desk.submit("cancelled")
    desk.cancel("cancelled")
    run(desk, "deleted", requirements=Requirements(memory_mib=77))
    delete(desk, "deleted")
    desk.report("host-1", status("vm-1"))
    first = retain(desk)

    desk.set_wall(after)
    second = retain(desk)

    assert (first, second) == ({}, {})
    assert desk.states() == {"done": 1, "held": 1, "cancelled": 1}
    assert desk.write(lambda tx: len(outbox.stale(tx, 10_000))) > 0, "what was claimed by another clock is sent again"


def test_what_ended_under_a_wrong_clock_ages_like_everything_else(desk: Desk) -> None:
    desk.set_wall(400)
    run(desk, "from-the-future")
    desk.set_wall(0)
    desk.pass_s(31 * DAY_S)

    assert retain(desk)["jobs"] == 1


def test_jobs_that_ended_first_go_first_whatever_the_clock_said(desk: Desk) -> None:
    run(desk, "first")
    desk.pass_s(60)
    desk.set_wall(-26 * 365)
    run(desk, "second")

    found = desk.ledger.read(lambda tx: claims.ended_first(tx, SITE, None, 10))

    assert [one.ref for one in found] == [f"{SITE}/first.1", f"{SITE}/second.1"]


def test_the_outputs_of_a_lost_attempt_stay_a_day_that_was_served(desk: Desk) -> None:
    desk.submit("one", attempts=3)
    lost = desk.start("vm-1")
    desk.pass_s(desk.policy.lease_s + 1)
    desk.expire()
    desk.start("vm-2")
    named = [(lost.job, lost.attempt)]

    def unclaimed() -> list[tuple[str, int]]:
        return desk.ledger.read(lambda tx: claims.unclaimed_attempts(tx, named, tx.lease_now_ms - int(DAY_S * 1000)))

    desk.set_wall(400)
    before = unclaimed()
    desk.pass_s(DAY_S + 100)

    assert (before, unclaimed()) == ([], named)


def test_no_storage_adapter_is_blamed_for_a_clock_that_was_set(desk: Desk) -> None:
    desk.submit("one")
    desk.beat(desk.start(), phase=Phase.STAGE_IN)
    desk.write(lambda tx: clock.take_turn(tx, clock.STORAGE))

    desk.set_wall(400)

    assert desk.show("one").next_step.startswith("nothing, it is at work;")


def test_a_large_job_keeps_no_vm_free_for_a_clock_that_was_set(desk: Desk) -> None:
    machine = Machine(cpus=4, memory_mib=4096, disk_mib=4096, platform="linux/x86_64", slots=2)
    desk.submit("small", requirements=Requirements(memory_mib=1))
    desk.ask("vm-1", 0, machine)
    desk.submit("large", requirements=Requirements(cpus=4))
    desk.set_wall(400)
    desk.ask("vm-1", 1, machine)
    desk.submit("next", requirements=Requirements(memory_mib=1))

    assert desk.state("next") is JobState.ASSIGNED


def test_what_waits_has_waited_for_as_long_as_was_served(desk: Desk) -> None:
    desk.submit("waits")
    desk.set_wall(400)
    desk.pass_s(7)

    assert desk.ledger.read(queries.stats).oldest_wait_ms == 7000


def test_a_job_that_ended_is_shown_until_it_goes_and_then_unknown(desk: Desk) -> None:
    run(desk, "one")
    assert desk.state("one") is JobState.DONE

    desk.ledger.write(lambda tx: tx.execute(update(tables.jobs).values(since_ms=1)))
    retain(desk)

    with pytest.raises(NotFound):
        desk.state("one")


def test_what_a_release_without_this_clock_writes_begins_to_age_when_it_is_seen(desk: Desk) -> None:
    """While adapters are replaced one by one, older ones write beside newer ones; they do not say since when."""
    run(desk, "ended")
    run(desk, "held", Outcome.FAILED)
    desk.write(lambda tx: outbox.put(tx, down("vm-1"), Ping()))
    for table, since in ((tables.jobs, "since_ms"), (tables.outbox, "put_ms")):
        desk.ledger.write(lambda tx, table=table, since=since: tx.execute(update(table).values({since: 0})))
    messages = count(desk, tables.outbox)
    unseen = {kind.what: len(desk.ledger.read(kind.find)) for kind in retention.kinds(Keep())}

    at_first, later = retain(desk), []
    for days in (29, 2, 60):
        desk.pass_s(days * DAY_S)
        later.append(retain(desk))

    assert (unseen["jobs"], unseen["messages"]) == (0, 0)
    assert at_first == {}
    assert [gone.get("messages", 0) for gone in later] == [messages, 0, 0]
    assert [gone.get("jobs", 0) for gone in later] == [0, 1, 1]
