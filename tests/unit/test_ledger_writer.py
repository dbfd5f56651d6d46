"""The writer of the ledger: what a commit caused is published, and ticked off by a later commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.intake import Answers, BatchHandler, Intake
from adapters.ledger import outbox
from adapters.ledger.engine import Ledger
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from broker.memory import MemoryCarrier
from broker.routes import down
from schemas.codec import decode
from schemas.envelope import Message, ServerTime
from schemas.ids import Kind
from schemas.jobs import JobBeat, JobStop
from tests.broker.polling import until
from tests.contract.ledger_fixtures import fresh_sqlite
from tests.unit.posts import Post

STOP = JobStop(id="stop", job="site-a/j.1", attempt=1, reason="x")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(fresh_sqlite(tmp_path))
    ledger.open()
    yield ledger
    ledger.close()


@pytest.fixture
def wire() -> MemoryCarrier:
    return MemoryCarrier("adapter-job-1")


@pytest.fixture
async def writer(wire: MemoryCarrier, ledger: Ledger) -> AsyncIterator[LedgerWriter]:
    writer = LedgerWriter(wire, ledger, Metrics(wire.user, CollectorRegistry()))
    yield writer
    await writer.close()


def stop(tx: Tx) -> None:
    outbox.put(tx, down("vm-a"), STOP)


async def test_what_a_write_put_out_is_published_and_ticked_off_by_the_next(
    wire: MemoryCarrier, ledger: Ledger, writer: LedgerWriter
) -> None:
    await writer.write(stop)
    await writer.background.finish()
    was_there = ledger.read(outbox.depth)
    await writer.write(lambda tx: None)

    assert [message for _, message in wire.sent_to("vc.down")] == [STOP]
    assert (was_there, ledger.read(outbox.depth)) == (1, 0)


async def test_a_write_that_fails_publishes_nothing_and_its_ticks_go_with_the_next(
    wire: MemoryCarrier, ledger: Ledger, writer: LedgerWriter
) -> None:
    await writer.write(stop)
    await writer.background.finish()

    def broken(tx: Tx) -> None:
        outbox.put(tx, down("vm-b"), STOP)
        raise KeyError("a row that is not there")

    with pytest.raises(KeyError):
        await writer.write(broken)
    was_there = ledger.read(outbox.depth)
    await writer.write(lambda tx: None)

    assert [key for _, key, _ in wire.sent] == ["vm.a"]
    assert (was_there, ledger.read(outbox.depth)) == (1, 0)


async def test_what_is_confirmed_last_is_ticked_off_by_closing(
    wire: MemoryCarrier, ledger: Ledger, writer: LedgerWriter
) -> None:
    await writer.write(stop)

    await writer.close()

    assert len(wire.sent) == 1
    assert ledger.read(outbox.depth) == 0


async def test_a_message_is_committed_published_answered_and_then_acknowledged(
    wire: MemoryCarrier, ledger: Ledger, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order whoever is killed between two of them has lost nothing."""
    post = Post("vm-a.beat", JobBeat(holding=[]))
    steps: list[tuple[str, int, int]] = []
    send = wire.send

    def noted(exchange: str, key: str, body: bytes, **options: Any) -> asyncio.Future[None]:
        steps.append((type(decode(body)).__name__, ledger.read(outbox.depth), post.acked))
        return send(exchange, key, body, **options)

    def handle(tx: Tx, items: Sequence[tuple[str, Message]]) -> Answers:
        stop(tx)
        return [ServerTime(call=message.id, server_time_ms=1) for _, message in items]

    monkeypatch.setattr(wire, "send", noted)
    handlers: dict[type[Message], BatchHandler] = {JobBeat: BatchHandler(handle=handle, senders=frozenset({Kind.VM}))}
    intake = Intake(wire, writer, handlers, Metrics("other", CollectorRegistry()), after=lambda tx: None)
    running = asyncio.create_task(intake.run())
    intake.on_delivery(post.delivery)
    await until(lambda: post.acked)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert steps == [("JobStop", 1, 0), ("ServerTime", 1, 0)]
