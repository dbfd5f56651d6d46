"""What a site asks of the centre: after its own jobs and for their outputs, and of nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import StoreError
from adapters.intake import Intake
from adapters.job.site_asks import SiteAsks
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.site_door import OF_ONE
from adapters.storage.output_reads import OutputReads
from adapters.storage.store import FsspecStore
from broker.memory import MemoryCarrier
from broker.routes import DEAD, DOWN
from schemas.codec import decode
from schemas.description import JobDescription
from schemas.envelope import Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.files import OutputFile
from schemas.jobs import OutputEntry
from schemas.ledger import (
    HostList,
    JobCancel,
    JobDelete,
    JobList,
    JobRecord,
    JobRetry,
    Jobs,
    JobsChanged,
    JobShow,
    JobSubmit,
)
from schemas.sites import OutputPart, OutputRead
from tests.broker.polling import until
from tests.contract.ledger_fixtures import Desk, fresh_sqlite, status
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
        self.asks = SiteAsks(self.wire, self.writer, intake.refuse).door
        self.reads = OutputReads(self.wire, self.writer, self.store, metrics, intake.refuse).door

    def leave(self, content: bytes, name: str = NAME, claims: int | None = None) -> None:
        """Have site-a's job leave an output, of which its guest may claim another size."""
        self.desk.submit("one", "site-a")
        job = self.desk.start("vm-1")
        size = len(content) if claims is None else claims
        entry = OutputEntry(name=name, size=size, sha256=sha256(content).hexdigest())
        if content and name == NAME:
            self.store.put_bytes(content, OutputFile(job=job.job, attempt=job.attempt, name=name))
        self.desk.complete(job, exit_status=0, outputs=[entry])

    async def ask(self, site: str, message: Message) -> Message:
        """Ask as a site does, and give what comes into its queue."""
        post = Post(f"{site}.{'read' if isinstance(message, OutputRead) else 'ask'}", message)
        door = self.reads if isinstance(message, OutputRead) else self.asks
        await door.on_delivery(post.delivery)
        await until(lambda: post.acked)
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


READ = OutputRead(job=JOB, name=NAME)


@pytest.mark.parametrize(
    ("sender", "door", "message"),
    [
        ("site-a", "asks", HostList()),
        ("site-a", "asks", READ),
        ("site-a", "asks", JobSubmit(job=JobDescription(id="x", executable="x"))),
        ("site-a", "reads", JobList()),
        ("vm-1", "asks", JobList()),
        ("vm-1", "reads", READ),
        ("host-a", "reads", READ),
        ("console-a", "asks", JobList()),
    ],
)
async def test_what_is_no_sites_to_ask_there_is_refused(
    tmp_path: Path, sender: str, door: str, message: Message
) -> None:
    async with centre(tmp_path) as here:
        post = Post(f"{sender}.ask", message)
        await getattr(here, door).on_delivery(post.delivery)
        await until(lambda: post.acked)

    (dead, _, _), (_, _, answer) = here.wire.sent
    assert dead == DEAD
    said = decode(answer)
    assert isinstance(said, Failed)
    assert said.code is ErrorCode.BAD_REQUEST


async def test_a_site_that_asks_too_much_at_once_is_told_and_others_are_answered(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        here.leave(CONTENT)
        many = [Post("site-a.ask", JobShow(job=JOB)) for _ in range(OF_ONE + 10)]
        for post in many:
            await here.asks.on_delivery(post.delivery)
        other = await here.ask("site-b", JobList())
        waiting = sum(not post.acked for post in many)
        await until(lambda: all(post.acked for post in many), 60)

    answers = [one for _, one in here.wire.sent_to(DOWN) if isinstance(one, Reply)]
    assert isinstance(other, Jobs)
    assert waiting > OF_ONE // 2
    assert sum(isinstance(one, Failed) and one.code is ErrorCode.NO_ROOM for one in answers) == 10
    assert sum(isinstance(one, JobRecord) for one in answers) == OF_ONE


async def test_a_site_is_told_nothing_of_a_volunteers_machine(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        here.desk.report("host-1", status("vm-1", pid=99))
        here.leave(CONTENT)

        shown = await here.ask("site-a", JobShow(job=JOB))

    assert isinstance(shown, JobRecord)
    (attempt,) = shown.attempts
    assert (attempt.host, attempt.vm_name, attempt.hypervisor_pid, attempt.vm) == ("", "", 0, "vm-1")


async def test_names_that_only_do_harm_are_in_no_answer_to_a_site(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        here.leave(CONTENT, name="../x\x1b[2J")

        shown = await here.ask("site-a", JobShow(job=JOB))

    assert isinstance(shown, JobRecord)
    assert shown.attempts[-1].outputs == []


async def test_a_large_order_is_carried_out_a_portion_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.ledger.orders.PORTION", 2)
    async with centre(tmp_path) as here:
        here.desk.submit("many", "site-a", array=3)

        first, second = [await here.ask("site-a", JobCancel(job="many")) for _ in range(2)]

    assert isinstance(first, JobsChanged)
    assert isinstance(second, JobsChanged)
    assert [(one.changed, one.more) for one in (first, second)] == [(2, True), (1, False)]


@pytest.mark.parametrize("claims", [len(CONTENT) + 1, 1 << 62])
async def test_an_output_of_which_its_guest_lied_is_told_and_nobody_reads_it_for_ever(
    tmp_path: Path, claims: int
) -> None:
    async with centre(tmp_path) as here:
        here.leave(CONTENT, claims=claims)

        answer = await here.ask("site-a", OutputRead(job=JOB, name=NAME, offset=len(CONTENT)))

    assert isinstance(answer, Failed)
    assert answer.code is ErrorCode.CONFLICT
    assert f"less than the {claims} bytes" in answer.message


async def test_a_store_that_fails_tells_a_site_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise StoreError("store s3://key:secret@place: it is away")

    async with centre(tmp_path) as here:
        here.leave(CONTENT)
        monkeypatch.setattr(here.store, "read", broken)

        answer = await here.ask("site-a", READ)

    assert isinstance(answer, Failed)
    assert (answer.code, answer.message) == (ErrorCode.STORE, "that cannot be looked up just now")


async def test_an_output_comes_in_parts_in_any_order(tmp_path: Path) -> None:
    parts: dict[int, bytes] = {}
    async with centre(tmp_path) as here:
        here.leave(CONTENT)
        for offset in (8192, 0, 4096):
            part = await here.ask("site-a", OutputRead(job=JOB, name=NAME, offset=offset, size=4096))
            assert isinstance(part, OutputPart)
            assert (part.attempt, part.offset, part.total) == (1, offset, len(CONTENT))
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
    assert (part.total, part.data) == (0, b"")


async def test_an_output_that_the_store_has_no_more_is_told(tmp_path: Path) -> None:
    async with centre(tmp_path) as here:
        here.leave(CONTENT)
        for path in (tmp_path / "store").rglob("*"):
            if path.is_file():
                path.unlink()

        answer = await here.ask("site-a", OutputRead(job=JOB, name=NAME))

    assert isinstance(answer, Failed)
    assert answer.code is ErrorCode.NOT_FOUND
