"""What a site asks of the centre: after its own jobs and for their outputs, and of nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.intake import Intake
from adapters.job.calls import Calls
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.storage.output_reads import OutputReads
from adapters.storage.store import FsspecStore
from broker.memory import MemoryCarrier
from broker.routes import DEAD, DOWN
from schemas.envelope import Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.files import OutputFile
from schemas.jobs import OutputEntry
from schemas.ledger import HostList, JobCancel, JobDelete, JobList, JobRecord, JobRetry, Jobs, JobsChanged, JobShow
from schemas.sites import OutputPart, OutputRead
from tests.broker.polling import until
from tests.contract.ledger_fixtures import Desk, fresh_sqlite
from tests.unit.posts import Post

JOB, NAME = "site-a/one.1", "result.bin"
CONTENT = bytes(range(256)) * 40


class Centre:
    """Both doors, over a ledger in which site-a's job has left an output."""

    def __init__(self, directory: Path) -> None:
        self.desk = Desk(fresh_sqlite(directory))
        self.store = FsspecStore(f"file://{directory}/store")
        self.wire = MemoryCarrier("adapter-store-1")
        metrics = Metrics(self.wire.user, CollectorRegistry())
        self.writer = LedgerWriter(self.wire, self.desk.ledger, metrics)
        intake = Intake(self.wire, self.writer, {}, metrics, after=lambda tx: None)
        self.calls = Calls(self.wire, self.writer, intake.on_delivery)
        self.reads = OutputReads(self.wire, self.writer, self.store, metrics, intake)

    def leave(self, content: bytes, name: str = NAME) -> None:
        """Have site-a's job leave an output."""
        self.desk.submit("one", "site-a")
        job = self.desk.start("vm-1")
        entry = OutputEntry(name=name, size=len(content), sha256=sha256(content).hexdigest())
        if content:
            self.store.put_bytes(content, OutputFile(job=job.job, attempt=job.attempt, name=name))
        self.desk.complete(job, exit_status=0, outputs=[entry])

    async def ask(self, site: str, message: Message) -> Message:
        """Ask as a site does, and give what comes into its queue."""
        post = Post(f"{site}.{'read' if isinstance(message, OutputRead) else 'ask'}", message)
        door = self.reads if isinstance(message, OutputRead) else self.calls
        await door.on_delivery(post.delivery)
        assert post.acked == 1
        ((key, answer),) = [
            (key, one) for key, one in self.wire.sent_to(DOWN) if isinstance(one, Reply) and one.call == message.id
        ]
        assert key == site.replace("-", ".", 1)
        return answer


@asynccontextmanager
async def centre(directory: Path) -> AsyncIterator[Centre]:
    made = Centre(directory)
    try:
        yield made
    finally:
        await made.writer.close()
        made.desk.ledger.close()


async def test_a_site_sees_its_own_jobs(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        here.leave(CONTENT)
        here.desk.submit("two", "site-b")

        listed = await here.ask("site-a", JobList())
        shown = await here.ask("site-a", JobShow(job=JOB))

    assert isinstance(listed, Jobs)
    assert ([row.job for row in listed.jobs], listed.counts) == ([JOB], {"done": 1})
    assert isinstance(shown, JobRecord)
    assert shown.attempts[-1].outputs[0].name == NAME


@pytest.mark.parametrize(
    "message",
    [
        JobShow(job=JOB),
        JobCancel(job="one"),
        JobCancel(job=JOB, owner="site-a"),
        JobRetry(job=JOB, owner="site-a"),
        JobDelete(job="site-a/one"),
        OutputRead(job=JOB, name=NAME),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_another_sites_jobs_are_not_there_for_it(tmp_path: Path, message: Message) -> None:
    async with centre(tmp_path) as here:
        here.leave(CONTENT)

        answer = await here.ask("site-b", message)

        assert here.desk.job("one").state == "done"
    assert isinstance(answer, Failed)
    assert answer.code is ErrorCode.NOT_FOUND
    assert answer.message.endswith("no such job of site-b")


@pytest.mark.parametrize("asked", [JobList(owner="site-a"), JobList(job=JOB), JobList(job="one", owner="site-a")])
async def test_nor_are_they_listed(tmp_path: Path, asked: JobList) -> None:
    async with centre(tmp_path) as here:
        here.leave(CONTENT)

        answer = await here.ask("site-b", asked)

    assert isinstance(answer, Jobs)
    assert (answer.jobs, answer.counts) == ([], {})


async def test_a_site_cancels_and_deletes_what_is_its_own(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        here.desk.submit("many", "site-a", array=3)

        cancelled = await here.ask("site-a", JobCancel(job="many"))
        deleted = await here.ask("site-a", JobDelete(job="many"))
        left = await here.ask("site-a", JobList())

    assert isinstance(cancelled, JobsChanged)
    assert isinstance(deleted, JobsChanged)
    assert (cancelled.changed, deleted.changed) == (3, 3)
    assert isinstance(left, Jobs)
    assert left.jobs == []


async def test_what_is_no_sites_to_ask_is_refused(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        for sender, door in (
            ("site-a", here.calls),
            ("vm-1", here.calls),
            ("vm-1", here.reads),
            ("host-a", here.reads),
        ):
            question = (
                HostList()
                if sender == "site-a"
                else JobList()
                if door is here.calls
                else OutputRead(job=JOB, name=NAME)
            )
            post = Post(f"{sender}.ask", question)
            before = len(here.wire.sent)
            await door.on_delivery(post.delivery)
            await until(lambda post=post: post.acked)

            assert [where for where, _, _ in here.wire.sent[before:]] == [DEAD, DOWN]
            answer = here.wire.sent_to(DOWN)[-1][1]
            assert isinstance(answer, Failed)
            assert answer.code is ErrorCode.BAD_REQUEST


async def test_an_output_comes_in_parts_in_any_order(tmp_path: Path) -> None:
    parts: dict[int, bytes] = {}
    async with centre(tmp_path) as here:
        here.leave(CONTENT)
        for offset in (8192, 0, 4096):
            part = await here.ask("site-a", OutputRead(job=JOB, name=NAME, offset=offset, size=4096))
            assert isinstance(part, OutputPart)
            assert (part.attempt, part.offset, part.size) == (1, offset, len(CONTENT))
            assert part.sha256 == sha256(CONTENT).hexdigest()
            parts[offset] = part.data
        beyond = await here.ask("site-a", OutputRead(job=JOB, name=NAME, offset=1 << 40))

    assert b"".join(parts[offset] for offset in sorted(parts)) == CONTENT
    assert isinstance(beyond, OutputPart)
    assert beyond.data == b""


async def test_an_empty_output_is_a_part_without_bytes(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        here.leave(b"", "stdout")

        part = await here.ask("site-a", OutputRead(job=JOB, name="stdout"))

    assert isinstance(part, OutputPart)
    assert (part.size, part.data) == (0, b"")


async def test_an_output_that_the_store_has_no_more_is_told(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        here.leave(CONTENT)
        for path in (tmp_path / "store").rglob("*"):
            if path.is_file():
                path.unlink()

        answer = await here.ask("site-a", OutputRead(job=JOB, name=NAME))

    assert isinstance(answer, Failed)
    assert answer.code is ErrorCode.NOT_FOUND
