"""An adapter whose ledger's disk is full, for real: what came is kept and written once there is room."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import LedgerError
from adapters.intake import Intake
from adapters.job.adapter import JobAdapter, kinds
from adapters.job.submission_checker import SubmissionChecker
from adapters.ledger import clock, outbox, tallies
from adapters.ledger.engine import Ledger
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.storage.store import FsspecStore
from broker.memory import MemoryCarrier
from broker.routes import DEAD, down
from schemas.description import JobDescription
from schemas.envelope import Message
from schemas.jobs import AgentHello, JobBeat, JobRequest, JobStop, Machine
from schemas.ledger import JobSubmit
from tests.broker.polling import until
from tests.unit.posts import Post

MACHINE = Machine(cpus=1, memory_mib=1, disk_mib=1, platform="linux/x86_64")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free)
    return filler


def submission(number: int) -> JobSubmit:
    arguments = ["x" * 1000] * 20
    return JobSubmit(job=JobDescription(id=f"job-{number}", executable="x", arguments=arguments))


async def test_what_comes_while_the_disk_is_full_is_kept_and_written_once_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, wire, checker = (
        Ledger(f"sqlite:///{small_disk}/ledger.db"),
        MemoryCarrier("adapter-job-1"),
        SubmissionChecker(lambda digest: True),
    )
    ledger.open()
    metrics = Metrics(wire.user, CollectorRegistry())
    writer = LedgerWriter(wire, ledger, metrics)
    intake = Intake(wire, writer, kinds(checker), metrics, after=lambda tx: None)
    answers: list[bool] = []
    is_there = writer.is_there

    async def noted() -> bool:
        answers.append(await is_there())
        return answers[-1]

    monkeypatch.setattr(writer, "is_there", noted)
    said: list[tuple[str, Message]] = [("site-a.submit", submission(number)) for number in range(40)]
    said += [("vm-a.request", AgentHello(machine=MACHINE)), ("vm-a.request", JobRequest(slot=0, machine=MACHINE))]
    said += [("vm-a.beat", JobBeat(holding=[]))]
    posts = [Post(key, message) for key, message in said]
    filler = fill(small_disk)
    running = asyncio.create_task(intake.run())

    for post in posts:
        intake.on_delivery(post.delivery)
    await until(lambda: len(answers) >= 2, 60)
    was_acked = [post for post in posts if post.acked]
    put_off = [record for record in caplog.records if record.message == "message put off"]
    filler.unlink()
    await until(lambda: all(post.acked for post in posts), 60)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await writer.close()
    checker.close()
    assert was_acked == []
    assert answers[:2] == [False, False]
    assert put_off == [], "nobody is blamed for a disk that takes nothing"
    assert [where for where, _, _ in wire.sent if where == DEAD] == []
    assert ledger.read(tallies.of_all) == {"submitted": 40}
    ledger.close()


async def test_an_adapter_stops_well_though_the_disk_is_full(small_disk: Path) -> None:
    ledger, wire = Ledger(f"sqlite:///{small_disk}/ledger.db"), MemoryCarrier("adapter-job-1")
    ledger.open()
    writer = LedgerWriter(wire, ledger, Metrics(wire.user, CollectorRegistry()))
    ledger.write(lambda tx: outbox.put(tx, down("vm-a"), JobStop(id="m", job="site-a/j.1", attempt=1, reason="x")))
    writer._publisher.put_back(["m"])
    filler = fill(small_disk)

    await writer.close()

    filler.unlink()
    assert [row.message_id for row in ledger.write(lambda tx: outbox.stale(tx, -1))] == ["m"]
    ledger.close()


class OpeningWire(MemoryCarrier):
    """A link that is down until it is opened."""

    opened = 0

    async def consume(self, *_: Any, **__: Any) -> None:
        return None

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        return None


def fill_log(ledger: Ledger) -> None:
    """Fill what room its log has in files that are there."""
    for _ in range(5000):
        ledger.write(partial(clock.enter, kind=clock.JOB))


async def test_an_adapter_that_starts_on_a_full_disk_takes_no_message_and_begins_once_there_is_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, wire = Ledger(f"sqlite:///{small_disk}/ledger.db", instance="adapter-job-1"), OpeningWire("adapter-job-1")
    ledger.open()
    filler = fill(small_disk)
    with pytest.raises(LedgerError):
        fill_log(ledger)
    store = FsspecStore(f"file://{small_disk}/store")
    adapter = JobAdapter(wire, ledger, store, Metrics(wire.user, CollectorRegistry()))

    running = asyncio.create_task(adapter.run(sweep_s=3600))
    await until(lambda: running.done() or "ledger takes no write, waiting" in caplog.messages, 60)
    assert (running.done(), wire.opened) == (False, 0)
    filler.unlink()
    await until(lambda: running.done() or wire.opened, 60)

    assert not running.done()
    assert list(ledger.read(clock.readers).readers) == ["adapter-job-1"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ledger.close()
