"""Who may store what rides in a completion: the VM whose attempt is awaited, and nobody after it has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.config import StorageAdapterConfig
from adapters.ledger.attempts import AttemptState
from adapters.metrics import Metrics
from adapters.storage.adapter import StorageAdapter, _complete
from adapters.storage.contents import FsspecContents
from adapters.storage.store import FsspecStore
from broker.memory import MemoryCarrier
from broker.routes import DOWN
from schemas.description import Requirements
from schemas.envelope import Failed
from schemas.files import OutputFile
from schemas.jobs import JobAssign, JobCompletion, JobCompletionAnswer, Outcome, OutputEntry
from tests.broker.polling import until
from tests.contract.ledger_fixtures import Desk, cluster, desk, url
from tests.unit.posts import Post

__all__ = ["cluster", "desk", "url"]


class Centre:
    """A storage adapter on the desk's ledger."""

    def __init__(self, desk: Desk, directory: Path) -> None:
        self.desk, self.wire, self.store = (
            desk,
            MemoryCarrier("adapter-store-1"),
            FsspecStore(f"file://{directory}/store"),
        )
        metrics = Metrics("adapter-store-1", CollectorRegistry())
        config = StorageAdapterConfig(credential="", ledger="", store="", staging=str(directory / "staging"))
        self.adapter = StorageAdapter(self.wire, desk.ledger, self.store, FsspecContents(self.store), config, metrics)
        self.root = directory / "store"

    def stored(self, job: JobAssign) -> bytes | None:
        path = self.root / "outputs" / job.job / str(job.attempt) / "stdout"
        return path.read_bytes() if path.exists() else None

    async def take(self, job: JobAssign, content: bytes, vm: str = "vm-1") -> JobCompletion:
        """Take a completion all the way; gives what the ledger got of it."""
        message = ending(job, content)
        self.adapter._on_completion(Post(f"{vm}.completion", message).delivery)
        await until(lambda: self.adapter._intake._waiting)
        (item,) = self.adapter._intake._waiting
        self.adapter._intake._waiting.clear()
        assert isinstance(item.message, JobCompletion)
        taken = item.message
        self.desk.write(lambda tx: _complete(tx, [(vm, taken)]))
        return taken

    def answers(self) -> list[tuple[bool, str]]:
        return [(answer.counted, answer.reason) for answer in self.desk.of_kind(JobCompletionAnswer)]


def ending(job: JobAssign, content: bytes) -> JobCompletion:
    entry = OutputEntry(name="stdout", size=len(content), sha256="c" * 64, content=content)
    return JobCompletion(job=job.job, attempt=job.attempt, outcome=Outcome.DONE, outputs=[entry])


@pytest.fixture
def centre(desk: Desk, tmp_path: Path) -> Centre:
    return Centre(desk, tmp_path)


async def test_the_holder_stores_once_and_is_answered_alike_again(desk: Desk, centre: Centre) -> None:
    desk.submit("one")
    job = desk.start("vm-1")

    first = await centre.take(job, b"mine")
    await centre.take(job, b"changed")

    assert first.outputs[0].content is None
    assert centre.stored(job) == b"mine"
    assert centre.answers() == [(True, ""), (True, "")]
    assert desk.show("one").attempts[0].outputs == first.outputs


async def test_another_vm_overwrites_nothing(desk: Desk, centre: Centre) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    await centre.take(job, b"forged", vm="vm-2")
    before = centre.stored(job)
    await centre.take(job, b"mine")

    await centre.take(job, b"forged", vm="vm-2")

    assert before is None
    assert centre.stored(job) == b"mine"
    assert centre.answers() == [(False, "foreign_attempt"), (True, ""), (False, "foreign_attempt")]


@pytest.mark.parametrize(
    ("vm", "ended", "may"), [("vm-1", False, 16 << 30), ("vm-2", False, None), ("vm-1", True, None)]
)
async def test_a_file_is_taken_of_the_holder_until_the_end(
    desk: Desk, centre: Centre, vm: str, ended: bool, may: int | None
) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    if ended:
        desk.complete(job)

    file = OutputFile(job=job.job, attempt=job.attempt, name="big")
    assert await centre.adapter._may_store(vm, file) == may


async def test_an_expired_attempt_that_may_still_finish_stores(desk: Desk, centre: Centre) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.pass_s(1000)
    desk.expire()
    assert desk.show("one").attempts[0].state == AttemptState.EXPIRED

    await centre.take(job, b"late")

    assert centre.stored(job) == b"late"
    assert centre.answers() == [(True, "")]


def test_an_end_whose_outputs_were_not_stored_does_not_count(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")

    (answer,) = desk.write(lambda tx: _complete(tx, [("vm-1", ending(job, b"content"))]))

    assert isinstance(answer, Failed)
    assert "send it again" in answer.hint
    assert desk.show("one").attempts[0].ended_ms == 0
    assert desk.of_kind(JobCompletionAnswer) == []


async def test_a_full_store_is_told_to_the_holder_alone(
    desk: Desk, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.submit("one")
    job = desk.start("vm-1")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(centre.store.system, "pipe_file", full)
    post = Post("vm-1.completion", ending(job, b"mine"))
    centre.adapter._on_completion(post.delivery)
    await until(lambda: post.acked)

    ((key, answer),) = centre.wire.sent_to(DOWN)
    assert isinstance(answer, Failed)
    assert (key, "No space left" in answer.message) == ("vm.1", True)


async def test_a_job_that_asks_for_disk_may_store_as_much(desk: Desk, centre: Centre) -> None:
    desk.submit("one", requirements=Requirements(disk_mib=100))
    job = desk.start("vm-1")

    file = OutputFile(job=job.job, attempt=job.attempt, name="big")
    assert await centre.adapter._may_store("vm-1", file) == 100 << 20
