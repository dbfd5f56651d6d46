"""Lists come in pages, counts are kept and not counted, and long orders let others write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, event, text

from adapters.job.calls import fitting
from adapters.ledger import listing, orders, tallies
from adapters.ledger import registry as pages
from adapters.ledger.connections import connect
from adapters.ledger.migrations import migrate
from adapters.ledger.migrations.upgrading import config
from schemas.codec import decode
from schemas.description import Requirements
from schemas.envelope import MAX_BODY_BYTES
from schemas.jobs import JobStop, Outcome
from schemas.ledger import HostList, Hosts, JobCancel, JobList, JobRetry, JobRow, JobState, Registry, RegistryList
from schemas.vms import VmStatus
from tests.contract.ledger_fixtures import FACTS, SITE, Desk, cluster, desk, empty_url, status, url

__all__ = ["cluster", "desk", "empty_url", "url"]


def turned(desk: Desk, pattern: str = "*", limit: int = 7) -> list[list[str]]:
    """Turn the pages of the registry; give the ids on each."""
    found, after = [], ""
    while True:
        question = RegistryList(pattern=pattern, limit=limit, after=after)
        page = desk.ledger.read(partial(pages.vms, message=question))
        found.append([row.status.vm for row in page.vms])
        after = page.next
        if not after:
            return found


def listed(desk: Desk, question: JobList) -> list[JobRow]:
    return desk.ledger.read(lambda tx: listing.list_jobs(tx, question)).jobs


def test_the_registry_is_read_in_pages_by_name(desk: Desk) -> None:
    desk.report("host-1", *(status(f"vm-{n:02}") for n in range(9)))
    desk.report("host-2", *(status(f"vm-{n:02}") for n in range(9, 20)))

    found = turned(desk)

    assert [len(page) for page in found] == [7, 7, 6]
    assert sorted(vm for page in found for vm in page) == [f"vm-{n:02}" for n in range(20)]


def test_a_vm_is_found_by_its_name_its_id_or_a_pattern_on_either(desk: Desk) -> None:
    desk.report("host-1", *(status(f"vm-{n:02}") for n in range(20)), status("vm-x", name="vm-07"))

    assert turned(desk, "07-name") == [["vm-07"]]
    assert turned(desk, "vm-07") == [["vm-07", "vm-x"]]
    assert [vm for page in turned(desk, "1?-name", limit=3) for vm in page] == [f"vm-{n}" for n in range(10, 20)]
    assert [vm for page in turned(desk, "vm-1*", limit=3) for vm in page] == [f"vm-{n}" for n in range(10, 20)]
    assert turned(desk, "nobody") == [[]]


def test_a_pattern_that_few_fit_gives_short_pages_and_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST_WALKED", 4)
    desk.report("host-1", *(status(f"vm-{n:02}") for n in range(10)))

    assert turned(desk, "09-*", limit=2) == [[], [], ["vm-09"]]


def test_hosts_are_read_in_pages_with_the_number_of_their_vms(desk: Desk) -> None:
    for number in range(5):
        desk.report(f"host-{number}", *(status(f"vm-{number}-{n}") for n in range(number)))

    first = desk.ledger.read(lambda tx: pages.hosts(tx, HostList(limit=3)))
    last = desk.ledger.read(lambda tx: pages.hosts(tx, HostList(limit=3, after=first.next)))

    assert [(row.host, row.vms) for row in first.hosts + last.hosts] == [(f"host-{n}", n) for n in range(5)]
    assert (first.next, last.next) == ("host-2", "")


def test_a_page_that_does_not_fit_a_message_is_cut_and_the_next_one_goes_on_there(desk: Desk) -> None:
    def large(number: int) -> VmStatus:
        return status(f"vm-{number}", image="x" * 64, reason="\U0001f40c" * 1000, name=f"name{number}")

    for host in range(3):
        desk.report(f"host-{host}", *(large(number) for number in range(host * 100, host * 100 + 100)))
    whole = desk.ledger.read(lambda tx: pages.vms(tx, RegistryList(limit=1000)))

    first = decode(fitting(whole))
    assert isinstance(first, Registry)
    rest = desk.ledger.read(lambda tx: pages.vms(tx, RegistryList(limit=1000, after=first.next)))

    assert 0 < len(first.vms) < 300
    assert sorted(row.status.vm for row in first.vms + rest.vms) == sorted(f"vm-{number}" for number in range(300))


def test_a_single_row_that_does_not_fit_a_message_is_shown_without_its_details(desk: Desk) -> None:
    facts = FACTS.__class__(**{f: getattr(FACTS, f) for f in FACTS.__struct_fields__} | {"images": ["y" * 1000] * 2000})
    row = pages.HostRow(host="host-1", facts=facts, seen_ms=1, present=True, vms=1)

    shown = decode(fitting(Hosts(call="c", hosts=[row])))

    assert isinstance(shown, Hosts)
    assert shown.hosts[0].host == "host-1"
    assert len(fitting(Hosts(call="c", hosts=[row]))) < MAX_BODY_BYTES


def test_pages_of_an_owners_jobs_are_turned_over_all_states(desk: Desk) -> None:
    desk.submit("many", array=9)
    desk.submit("other", "site-b", array=9)
    for number in range(3):
        desk.complete(desk.start(f"vm-{number}"))

    found: list[str] = []
    before = None
    while page := listed(desk, JobList(owner=SITE, limit=2, before=before)):
        found += [row.job for row in page]
        before = page[-1].number

    assert found == [f"{SITE}/many.{n}" for n in range(9, 0, -1)]


def test_what_waits_for_the_end_counts_nothing(desk: Desk) -> None:
    desk.submit("many", array=1000)
    desk.complete(desk.start("vm-1"))
    statements: list[str] = []
    engine = desk.ledger._open_engines.reader
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(str(args[2])))

    counts = desk.ledger.read(lambda tx: listing.list_jobs(tx, JobList(job="many", limit=1))).counts

    assert counts == {"submitted": 999, "done": 1}
    assert [s for s in statements if "count(" in s.lower() and "FROM jobs" in s] == []


@pytest.mark.parametrize("order", ["cancel", "retry"])
def test_others_write_between_the_portions_of_an_order(desk: Desk, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setattr(orders, "PORTION", 10)
    desk.submit("many", array=25, attempts=1)
    if order == "retry":
        desk.ask("vm-1", more=range(1, 25))
        for job in desk.assigned():
            desk.complete(job, Outcome.FAILED)
    work: Callable[[Any], orders.Portion] = {
        "cancel": lambda tx: orders.cancel(tx, JobCancel(job="many")),
        "retry": lambda tx: orders.retry(tx, JobRetry(job="many")),
    }[order]

    changed = []
    for number in range(3):
        changed.append(desk.write(work))
        desk.submit(f"between-{number}", requirements=Requirements(cpus=99))

    assert [(portion.changed, portion.is_last) for portion in changed] == [(10, False), (10, False), (5, True)]
    assert desk.states()[{"cancel": "cancelled", "retry": "submitted"}[order]] >= 25


def test_running_jobs_are_told_to_stop_in_portions_and_counted_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "PORTION", 4)
    desk.submit("many", array=20)
    desk.ask("vm-1", more=range(1, 10))

    answer = desk.cancel("many")

    assert (answer.changed, answer.pending) == (20, 10)
    assert len(desk.of_kind(JobStop)) == 10
    assert desk.states() == {JobState.CANCELLED: 20}


@pytest.fixture
def older(empty_url: str) -> Any:
    """A ledger as the release before left it: two jobs of two owners, a VM that its host has named."""
    engine = connect(empty_url, "FULL").durable
    with engine.begin() as connection:
        made = config()
        made.attributes["connection"] = connection
        command.upgrade(made, "0002")
        connection.execute(text("INSERT INTO shapes (number, key) VALUES (1, '{}')"))
        for number, owner in ((1, "site-a"), (2, "site-b")):
            connection.execute(
                text("INSERT INTO submissions VALUES (:n, :o, 'j', 'd', :b, 1, 1, 1, 0, 1)"),
                {"n": number, "o": owner, "b": b""},
            )
            connection.execute(
                text(
                    "INSERT INTO jobs (number, submission, idx, ref, shape, rank, state, attempt, failures, losses, "
                    "lost_on, reason, cancel_requested, submitted_ms, ended_ms) VALUES "
                    "(:n, :n, 1, :ref, 1, 0, 'held', 1, 1, 0, '', '', :no, 1, 0)"
                ),
                {"n": number, "ref": f"{owner}/j.1", "no": False},
            )
    yield engine
    engine.dispose()


def test_an_older_ledger_learns_owners_and_tallies(older: Engine, empty_url: str) -> None:
    migrate(older)

    desk = Desk(empty_url)
    found = desk.ledger.read(lambda tx: listing.list_jobs(tx, JobList(owner="site-b")))
    counts = desk.ledger.read(tallies.of_all)
    desk.ledger.close()

    assert [row.job for row in found.jobs] == ["site-b/j.1"]
    assert (found.counts, counts) == ({"held": 1}, {"held": 2})
