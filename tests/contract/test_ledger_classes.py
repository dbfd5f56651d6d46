"""Kinds of jobs and machines: so many and no more, in all and of each who brings them; they go as fast as they come."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Table, func, select

from adapters.intake import Intake
from adapters.job import purger
from adapters.job.adapter import kinds
from adapters.job.purger import Purger
from adapters.job.submission_checker import SubmissionChecker
from adapters.ledger import classes, retention, tables
from adapters.ledger.retention import Keep
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from broker.memory import MemoryCarrier
from broker.routes import DOWN
from schemas.description import Requirements
from schemas.envelope import Failed
from schemas.jobs import AgentHello, JobRequest, Machine
from schemas.ledger import JobState
from tests.broker.polling import until
from tests.contract.ledger_fixtures import SMALL, Desk, cluster, desk, url
from tests.unit.posts import Post

__all__ = ["cluster", "desk", "url"]


def machine(number: int) -> Machine:
    return msgspec.structs.replace(SMALL, memory_mib=1024 + number)


def count(desk: Desk, table: Table = tables.offers) -> int:
    return int(desk.ledger.read(lambda tx: tx.execute(select(func.count()).select_from(table)).scalar_one()))


def test_a_vm_that_is_another_machine_each_time_makes_so_many_kinds_and_no_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "MOST_OF_VM", 5)
    desk.submit("waits")
    for number in range(20):
        desk.ask("vm-wild", number, machine(99_000 + number))

    desk.cancel("waits")
    desk.submit("one")
    desk.ask("vm-good", machine=machine(1))

    assert count(desk) == 6
    assert desk.state("one") is JobState.ASSIGNED
    makers = desk.ledger.read(lambda tx: tx.execute(select(tables.offers.c.made_by)).scalars().all())
    assert sorted(makers) == ["vm-good", *["vm-wild"] * 5]


def test_a_machine_that_is_one_too_many_is_given_no_job_until_it_is_a_known_one_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "MOST_OF_VM", 1)
    desk.ask("vm-1", 0, machine(1))
    desk.ask("vm-1", 0, machine(2))
    counted = desk.counts["too_many_kinds"]
    desk.submit("one")
    before = desk.state("one")

    desk.ask("vm-1", 0, machine(1))

    assert counted == 1
    assert (before, desk.state("one")) == (JobState.SUBMITTED, JobState.ASSIGNED)


def test_the_whole_ledger_holds_so_many_kinds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MOST_CLASSES", 3)
    for number in range(10):
        desk.ask(f"vm-{number}", machine=machine(number))
        desk.submit(f"job-{number}", f"site-{number}", requirements=Requirements(memory_mib=5000 + number))

    assert (count(desk), count(desk, tables.shapes)) == (3, 3)


def test_an_owner_with_too_many_kinds_is_refused_in_words_and_others_are_not(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "MOST_OF_OWNER", 2)
    verdicts = [desk.submit(f"job-{n}", requirements=Requirements(memory_mib=n + 1)) for n in range(3)]
    again = desk.submit("known", requirements=Requirements(memory_mib=1))
    other = desk.submit("job-2", "site-b", requirements=Requirements(memory_mib=3))
    mended = desk.submit("job-2", requirements=Requirements(memory_mib=2))

    assert [verdict.accepted for verdict in verdicts] == [True, True, False]
    assert verdicts[2].reasons[0].startswith("requirements: one more kind of job is one too many: site-a has brought")
    assert (again.accepted, other.accepted, mended.accepted) == (True, True, True)


@pytest.mark.parametrize("table", [tables.offers, tables.shapes], ids=lambda table: table.name)
def test_thousands_of_kinds_that_nothing_is_of_go_in_one_round(desk: Desk, table: Table) -> None:
    """In portions, and what somebody uses in between stays."""
    keys = [classes.Brought(f"kind-{number}", f"vm-{number}") for number in range(3 * retention.PORTION)]
    numbers = classes.offer_numbers if table is tables.offers else classes.shape_numbers
    desk.ledger.write(lambda tx: numbers(tx, keys))
    desk.ledger._known.offer_numbers.clear()
    desk.ledger._known.shape_numbers.clear()

    for mark in retention.marks():
        while found := desk.ledger.read(mark.find):
            desk.ledger.write(lambda tx, found=found, mark=mark: mark.remove(tx, found))
    desk.pass_s(2 * 3600 + 1)
    desk.ledger.write(lambda tx: numbers(tx, keys[:1]))
    for kind in retention.kinds(Keep()):
        while found := desk.ledger.read(kind.find):
            desk.ledger.write(lambda tx, found=found, kind=kind: kind.remove(tx, found))

    assert count(desk, table) == 1


async def test_a_round_marks_all_and_others_write_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purger, "BETWEEN_S", 0.0)
    monkeypatch.setattr(retention, "PORTION", 10)
    desk = Desk(f"sqlite:///{tmp_path}/ledger.db")
    desk.ledger.write(lambda tx: classes.offer_numbers(tx, [classes.Brought(f"kind-{n}", "") for n in range(45)]))
    wire = MemoryCarrier("adapter-job-1")
    writer = LedgerWriter(wire, desk.ledger, Metrics(wire.user, CollectorRegistry()))
    written: list[int] = []
    write = writer.write

    async def noted(work: object, *, light: bool = False) -> object:
        written.append(1)
        return await write(work, light=light)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "write", noted)

    await Purger(writer, Keep(), 3600).round()
    retired = desk.ledger.read(
        lambda tx: tx.execute(select(func.count()).where(tables.offers.c.retired_ms > 0)).scalar_one()
    )
    await writer.close()
    desk.ledger.close()

    assert retired == 45
    assert len(written) == 5


async def test_a_guest_with_too_many_machines_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MOST_OF_VM", 0)
    desk = Desk(f"sqlite:///{tmp_path}/ledger.db")
    wire, submitted = MemoryCarrier("adapter-job-1"), SubmissionChecker(lambda digest: True)
    metrics = Metrics(wire.user, CollectorRegistry())
    writer = LedgerWriter(wire, desk.ledger, metrics)
    intake = Intake(wire, writer, kinds(submitted), metrics, after=lambda tx: None)
    task = asyncio.create_task(intake.run())
    posts = [Post("vm-a.request", JobRequest(slot=0, machine=SMALL)), Post("vm-a.request", AgentHello(machine=SMALL))]
    for post in posts:
        intake.on_delivery(post.delivery)
    await until(lambda: all(post.acked for post in posts))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await writer.close()
    submitted.close()
    desk.ledger.close()

    told = [message for _, message in wire.sent_to(DOWN) if isinstance(message, Failed)]
    assert len(told) == 2
    assert all("one more kind of machine is one too many: vm-a has brought" in failed.message for failed in told)
