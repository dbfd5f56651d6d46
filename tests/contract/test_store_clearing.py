"""The store keeps what the ledger points to, and nothing else for long."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.ledger import deletion
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.storage.contents import FsspecContents
from adapters.storage.store import FsspecStore
from adapters.storage.store_cleaner import StoreBounds, StoreCleaner
from broker.memory import MemoryCarrier
from schemas.description import Input
from schemas.files import InputFile, OutputFile
from schemas.jobs import Outcome
from schemas.ledger import JobDelete
from tests.contract.ledger_fixtures import SITE, Desk, cluster

__all__ = ["cluster"]

DAY_S = 86400.0


class Yard:
    """A ledger, its store, and its cleaner between them."""

    def __init__(self, directory: Path, ledger: str = "ledger.db") -> None:
        self.root = directory / "store"
        self.desk = Desk(f"sqlite:///{directory / ledger}")
        self.desk.now_ms = time.time_ns() // 1_000_000
        self.desk.ledger.read(lambda tx: tx.lease_now_ms)
        self.store = FsspecStore(f"file://{self.root}", self.desk.ledger.served_s)

    async def do(self, work: Callable[[StoreCleaner], object], bounds: StoreBounds | None = None) -> None:
        self.desk.ledger.read(lambda tx: tx.lease_now_ms)  # as the adapter's sweep
        wire, metrics = MemoryCarrier("adapter-job-1"), Metrics("adapter-store-1", CollectorRegistry())
        writer = LedgerWriter(wire, self.desk.ledger, metrics)
        cleaner = StoreCleaner(FsspecContents(self.store), writer, bounds or StoreBounds(), metrics)
        try:
            await work(cleaner)  # type: ignore[misc]
        finally:
            await writer.close()

    async def collect(self, **bounds: float) -> None:
        await self.do(lambda cleaner: cleaner.collect(), StoreBounds(**bounds))  # type: ignore[arg-type]

    def run(
        self, job_id: str, content: bytes = b"12345", outcome: Outcome = Outcome.DONE, owner: str = SITE
    ) -> OutputFile:
        """Let a job run that stores a file; give it."""
        self.desk.submit(job_id, owner=owner)
        job = self.desk.start("vm-1")
        file = OutputFile(job=job.job, attempt=job.attempt, name="d/out")
        self.store.put_bytes(content, file)
        self.desk.complete(job, outcome)
        return file

    def input(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.store.put_bytes(content, InputFile(sha256=digest))
        return digest

    def age(self, days: float = 2) -> None:
        """Let everything in the store be so old."""
        then = time.time() - days * DAY_S
        for path in self.root.rglob("*"):
            os.utime(path, (then, then))

    def files(self) -> set[str]:
        places = [path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file()]
        return {str(place) for place in places if place.parts[0] in ("inputs", "outputs", "unfinished")}


def place(file: OutputFile) -> str:
    return f"outputs/{file.job}/{file.attempt}/{file.name}"


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.desk.ledger.close()


async def test_the_outputs_of_a_deleted_job_go_and_those_of_its_successor_stay(yard: Yard) -> None:
    old = yard.run("again")
    yard.desk.order(lambda tx: deletion.delete_named(tx, JobDelete(job="again")))
    new = yard.run("again", b"anew")

    await yard.do(lambda cleaner: cleaner.remove_deleted())

    assert (old.attempt, new.attempt) == (1, 2)
    assert yard.files() == {place(new)}


async def test_what_an_attempt_stored_that_was_lost_goes_after_a_while(yard: Yard) -> None:
    kept = yard.run("done")
    yard.desk.submit("lost")
    first = yard.desk.start("vm-1")
    yard.store.put_bytes(b"half", OutputFile(job=first.job, attempt=1, name="half"))
    yard.desk.pass_s(yard.desk.policy.lease_s + 1)
    yard.desk.expire()
    second = yard.desk.start("vm-2")
    yard.store.put_bytes(b"going", OutputFile(job=first.job, attempt=2, name="going"))
    half = f"outputs/{first.job}/1/half"

    await yard.collect()
    young = yard.files()
    yard.age()
    yard.desk.pass_s(2 * DAY_S)
    yard.desk.beat(second)
    await yard.collect()

    assert half in young
    assert yard.files() == {place(kept), f"outputs/{first.job}/2/going"}


async def test_an_input_goes_once_no_submission_needs_it(yard: Yard) -> None:
    needed, deleted, never = yard.input(b"needed"), yard.input(b"deleted"), yard.input(b"never")
    for job_id, digest in (("keeps", needed), ("goes", deleted)):
        yard.desk.submit(job_id, stored=[digest], inputs=[Input(name="i", sha256=digest)])
    yard.desk.cancel("goes")
    yard.desk.order(lambda tx: deletion.delete_named(tx, JobDelete(job="goes")))
    await yard.collect()
    young = len(yard.files())

    yard.age()
    await yard.collect()

    assert young == 3
    assert yard.files() == {f"inputs/{needed[:2]}/{needed}"}
    assert not yard.store.has_input(never)


@pytest.mark.parametrize("year", [2010, 2080])
async def test_what_was_stored_ages_by_the_ledgers_clock_whatever_the_machines_says(tmp_path: Path, year: int) -> None:
    yard = Yard(tmp_path)
    yard.desk.now_ms = int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)
    yard.desk.submit("any")
    yard.input(b"stored")
    asked_for = yard.input(b"asked for again")

    await yard.collect()
    young = len(yard.files())
    yard.desk.pass_s(0.7 * DAY_S)
    yard.desk.submit("any other")
    yard.store.has_input(asked_for)
    yard.desk.pass_s(0.7 * DAY_S)
    await yard.collect()
    yard.desk.ledger.close()

    assert young == 2
    assert yard.files() == {f"inputs/{asked_for[:2]}/{asked_for}"}


@pytest.mark.parametrize("moment", ["before it is put aside", "while it is put aside"])
async def test_an_input_that_a_job_is_submitted_with_at_that_moment_stays_or_the_job_is_refused(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    digest = yard.input(b"wanted")
    yard.age()
    accepted: list[bool] = []

    def submit() -> None:
        known = [digest] if yard.store.has_input(digest) else []
        verdict = yard.desk.submit(f"job-{len(accepted)}", stored=known, inputs=[Input(name="i", sha256=digest)])
        accepted.append(verdict.accepted)

    removed = FsspecContents.remove_input

    def raced(contents: FsspecContents, digest: str, keep_s: float, is_needed: Callable[[str], bool]) -> bool:
        if moment == "before it is put aside":
            submit()
            return removed(contents, digest, keep_s, is_needed)

        def asked(wanted: str) -> bool:
            submit()
            return is_needed(wanted)

        return removed(contents, digest, keep_s, asked)

    monkeypatch.setattr(FsspecContents, "remove_input", raced)

    await yard.collect()

    assert yard.store.has_input(digest) == accepted[0] == (moment == "before it is put aside")


async def test_an_input_that_was_put_aside_by_a_killed_adapter_comes_back(yard: Yard) -> None:
    digest = yard.input(b"needed")
    yard.desk.submit("keeps", stored=[digest], inputs=[Input(name="i", sha256=digest)])
    (yard.root / "unfinished").mkdir(exist_ok=True)
    (yard.root / "inputs" / digest[:2] / digest).rename(yard.root / "unfinished" / f"{digest}.aside")

    await yard.collect()

    assert yard.files() == {f"inputs/{digest[:2]}/{digest}"}


async def test_outputs_beyond_their_bound_go_with_the_jobs_that_ended_first(yard: Yard) -> None:
    files = []
    for number in range(4):
        files.append(yard.run(f"job-{number}", b"x" * 1000))
        yard.desk.pass_s(1)
    held = yard.run("held", b"x" * 1000, Outcome.FAILED)

    await yard.collect(outputs_bytes=3500)

    assert yard.files() == {place(file) for file in (*files[2:], held)}
    assert yard.desk.states() == {"done": 2, "held": 1}


async def test_who_stores_the_most_gives_first_and_others_keep_what_ended_long_ago(yard: Yard) -> None:
    """One owner that stores much once had everybody else's older outputs deleted."""
    small = [yard.run(f"small-{number}", b"x" * 500, owner="site-small") for number in range(2)]
    yard.desk.pass_s(1)
    large = []
    for number in range(4):
        large.append(yard.run(f"large-{number}", b"x" * 1000, owner="site-large"))
        yard.desk.pass_s(1)

    await yard.collect(outputs_bytes=3000)

    assert yard.files() == {place(file) for file in (*small, *large[2:])}


async def test_nobody_within_an_even_share_gives_for_one_whose_jobs_cannot_go(yard: Yard) -> None:
    small = yard.run("small", b"x" * 500, owner="site-small")
    held = [yard.run(f"held-{n}", b"x" * 1000, Outcome.FAILED, owner="site-large") for n in range(2)]

    await yard.collect(outputs_bytes=1000)

    assert yard.files() == {place(file) for file in (small, *held)}


@pytest.mark.parametrize("marked", [True, False])
async def test_a_store_of_another_ledger_is_left_alone(tmp_path: Path, yard: Yard, marked: bool) -> None:
    file = yard.run("one")
    if marked:
        await yard.collect()
    yard.age(400)
    fresh = Yard(tmp_path, "fresh.db")

    await fresh.collect()
    fresh.desk.ledger.close()

    assert yard.files() == {place(file)}


async def test_two_collectors_at_once_do_no_harm(yard: Yard) -> None:
    kept = yard.run("kept")
    for number in range(5):
        yard.input(f"in-{number}".encode())
        yard.run(f"job-{number}")
    for number in range(5):
        yard.desk.order(lambda tx, name=f"job-{number}": deletion.delete_named(tx, JobDelete(job=name)))
    await yard.collect()
    yard.age()

    await asyncio.gather(*(yard.do(both) for _ in range(2)))

    assert yard.files() == {place(kept)}
    assert yard.desk.states() == {"done": 1}
    assert kept.job == f"{SITE}/kept.1"


async def both(cleaner: StoreCleaner) -> None:
    await cleaner.remove_deleted()
    await cleaner.collect()
