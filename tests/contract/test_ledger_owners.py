"""Owners in the ledger: turns by share over many transactions, settings, and the page that tells of them."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from sqlalchemy import select

from adapters.ledger import owners, tables
from adapters.ledger.policy import Policy
from schemas.description import Requirements
from schemas.jobs import JobAssign, Outcome, Steps
from schemas.ledger import JobState
from schemas.owners import OwnerList, OwnerRow, OwnerSet
from tests.contract.ledger_fixtures import SMALL, Desk, cluster, desk, url

__all__ = ["cluster", "desk", "url"]

A, B = "site-a", "site-b"


def owner_of(job: JobAssign) -> str:
    return job.job.partition("/")[0]


def run(desk: Desk, times: int, lasting: dict[str, float]) -> Counter[str]:
    """Have a VM's one slot take and end so many jobs, one after the other; give how long each owner had it."""
    desk.hello()
    desk.ask()
    had: Counter[str] = Counter()
    for _ in range(times):
        job = desk.assigned()[-1]
        for _ in range(10):
            desk.pass_s(lasting[owner_of(job)] / 10)
            desk.beat(job)
            desk.keep_time()
        had[owner_of(job)] += int(lasting[owner_of(job)])
        request = desk.request()
        desk.complete(job, Outcome.DONE, exit_status=0, steps=Steps(run_s=lasting[owner_of(job)]), request=request)
    return had


def setting(desk: Desk, owner: str, **settings: object) -> OwnerRow:
    message = OwnerSet(owner=owner, **settings)  # type: ignore[arg-type]
    return desk.write(lambda tx: owners.put(tx, message)).owners[0]


def listed(desk: Desk, *named: str) -> dict[str, OwnerRow]:
    page = desk.ledger.read(lambda tx: owners.listed(tx, OwnerList(named=list(named))))
    return {row.owner: row for row in page.owners}


def served(desk: Desk, count: int) -> list[str]:
    """Have so many VMs ask, one after the other; give whose jobs they are given."""
    return [owner_of(desk.start(f"vm-{number}")) for number in range(count)]


def test_ten_jobs_beside_a_mass_of_higher_priority_take_twice_as_long_as_alone(desk: Desk) -> None:
    desk.submit("mass", A, array=100_000, priority=1000)
    desk.submit("ten", B, array=10)

    assert Counter(served(desk, 20)) == {A: 10, B: 10}
    assert desk.states() == {"assigned": 20, "submitted": 99_990}


def test_shares_are_kept_over_transactions_and_set_while_jobs_wait(desk: Desk) -> None:
    desk.submit("mass", A, array=100)
    desk.submit("mass", B, array=100)

    assert setting(desk, A, share=3).share == 3
    assert Counter(served(desk, 40)) == {A: 30, B: 10}


def test_one_owner_alone_has_no_account_and_others_get_their_part_beside_it(desk: Desk) -> None:
    desk.submit("mass", A, array=100)
    served(desk, 10)
    assert desk.ledger.read(lambda tx: tx.execute(select(tables.owners)).all()) == []

    desk.submit("late", B, array=100)
    assert [owner_of(desk.start(f"other-{n}")) for n in range(6)] == [A, B] * 3


def test_each_has_its_share_of_the_machines_time_however_long_its_jobs_are(desk: Desk) -> None:
    desk.submit("hours", A, array=200, wall_time_s=100_000)
    desk.submit("minutes", B, array=2000, wall_time_s=100_000)

    had = run(desk, 60, {A: 600.0, B: 60.0})

    assert had[A] / had.total() == pytest.approx(0.5, abs=0.12)
    used = {owner: row.used_s for owner, row in listed(desk).items()}
    assert used[A] == pytest.approx(had[A], rel=0.25)
    assert used[B] == pytest.approx(had[B], rel=0.25)


def test_a_job_that_takes_a_whole_vm_counts_for_all_of_it(desk: Desk) -> None:
    """By memory as by cpus: who asks for one cpu and all the memory has the VM as well."""
    machine = msgspec.structs.replace(SMALL, cpus=4, memory_mib=8192, slots=4)
    desk.submit("wide", A, array=40, requirements=Requirements(memory_mib=8192))
    desk.submit("small", B, array=100)

    whose = []
    for number in range(40):
        desk.ask(f"vm-{number}", machine=machine)
        whose.append(owner_of(desk.assigned()[-1]))

    assert Counter(whose) == {A: 8, B: 32}


def test_what_is_cancelled_or_lost_was_used_as_well(desk: Desk) -> None:
    desk.submit("cancelled", A, array=100)
    desk.submit("done", B, array=100)
    desk.hello("vm-1")
    desk.ask("vm-1")
    job = desk.assigned()[-1]
    for _ in range(6):
        desk.pass_s(50)
        desk.beat(job)
        desk.keep_time()
    desk.cancel(job.job.partition("/")[2], owner_of(job))
    desk.keep_time()

    assert listed(desk)[owner_of(job)].used_s == pytest.approx(300, rel=0.25)


def test_jobs_of_lower_priority_behind_a_full_page_are_read_too(desk: Desk) -> None:
    desk.submit("first", A, array=70, priority=5)
    desk.submit("last", A, array=5)
    desk.submit("other", B, array=3)

    given = [desk.start(f"vm-{number}").job for number in range(78)]

    assert len(set(given)) == 78
    assert [job for job in given if job.startswith(A)][-5:] == [f"{A}/last.{n}" for n in range(1, 6)]


def test_whose_jobs_fit_no_vm_keep_nobody_waiting_and_save_up_nothing(desk: Desk) -> None:
    desk.submit("giants", A, array=300, requirements=Requirements(cpus=200))
    desk.submit("mass", B, array=100)
    assert set(served(desk, 20)) == {B}

    desk.submit("small", A, array=100)
    assert Counter(owner_of(desk.start(f"other-{n}")) for n in range(20)) == {A: 20}
    assert Counter(owner_of(desk.start(f"third-{n}")) for n in range(20)) == {A: 10, B: 10}


def test_a_limit_of_an_owner_is_its_own_and_can_be_taken_back(url: str) -> None:
    desk = Desk(url, Policy(waiting_of_owner=5))
    assert setting(desk, A, most_waiting=2).is_limit_own

    refused = desk.submit("three", A, array=3)
    assert refused.reasons == ["array = 3: of one owner 2 jobs may wait at once: submit several smaller ones"]
    assert desk.submit("five", B, array=5).accepted
    assert setting(desk, A, share=2).most_waiting == 2
    row = setting(desk, A, forget_most_waiting=True)
    assert (row.most_waiting, row.is_limit_own, row.share) == (5, False, 2)
    assert desk.submit("three", A, array=3).accepted
    setting(desk, A, most_waiting=0)
    assert desk.submit("one", A).reasons == ["array = 1: site-a may let no job wait: an operator has said so, ask him"]
    desk.ledger.close()


def test_a_page_tells_of_all_that_have_jobs_or_are_named(desk: Desk) -> None:
    desk.submit("some", A, array=3)
    served(desk, 1)
    for number in range(5):
        desk.submit("one", f"site-m{number}")

    rows = listed(desk, "site-none", A)
    assert rows[A].jobs == {JobState.SUBMITTED: 2, JobState.ASSIGNED: 1}
    assert rows["site-none"] == OwnerRow(owner="site-none", most_waiting=desk.policy.waiting_of_owner)
    assert list(rows) == [A, "site-m0", "site-m1", "site-m2", "site-m3", "site-m4", "site-none"]

    pages, after = [], ""
    while not pages or after:
        message = OwnerList(named=["site-none"], limit=3, after=after)
        page = desk.ledger.read(lambda tx, message=message: owners.listed(tx, message))
        pages.append([row.owner for row in page.owners])
        after = page.next
    assert pages == [list(rows)[:3], list(rows)[3:6], list(rows)[6:]]


def test_a_hundred_owners_each_have_their_turn_before_anybody_has_two(desk: Desk) -> None:
    for number in range(100):
        desk.submit("some", f"site-n{number:02}", array=3)

    assert len(set(served(desk, 100))) == 100
