"""Every reader at the centre settles every message: with a ledger that breaks, a full store, a link that is cut."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from adapters.config import StorageAdapterConfig
from adapters.job.adapter import JobAdapter
from adapters.job.calls import Calls
from adapters.job.rejected import Rejected
from adapters.ledger.engine import Ledger
from adapters.metrics import Metrics
from adapters.storage.adapter import StorageAdapter
from adapters.storage.contents import FsspecContents
from adapters.storage.store import FsspecStore
from broker.connection import Delivery
from broker.delivery import Subscription
from broker.errors import Forbidden
from broker.inbound import receiver
from broker.keys.realm import FakeRealm
from broker.keys.service import Service
from broker.keys.spares import SpareLogins
from broker.memory import MemoryCarrier
from broker.routes import DOWN, queue_of
from schemas.codec import MESSAGES, encode
from schemas.envelope import Failed
from schemas.errors import ErrorCode
from schemas.examples import example
from schemas.jobs import JobCompletion, OutputEntry
from tests.broker.polling import until
from tests.contract.ledger_fixtures import fresh_sqlite
from tests.unit.test_responder import Channel, Content

SENDERS = ("vm-a", "host-a", "site-a", "console-a", "adapter-b", "keys")
Handler = Callable[[Delivery], Any]


class Trouble:
    """What goes wrong, for a while or always."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wire = CutWire("adapter-store-1") if name == "a cut link" else MemoryCarrier("adapter-store-1")

    def spoil(self, ledger: Ledger, store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
        if self.name == "a ledger that breaks":
            for method in ("write", "write_lightly", "read"):
                monkeypatch.setattr(ledger, method, _broken)
        if self.name == "a full store":
            for method in ("put", "holds", "local", "keep"):
                monkeypatch.setattr(store, method, _full, raising=False)


class CutWire(MemoryCarrier):
    """A link on which no dead letter goes out: the permission is gone, say."""

    async def deliver(self, exchange: str, key: str, body: bytes, **options: Any) -> None:
        raise Forbidden("ACCESS_REFUSED - access to exchange 'vc.dead' refused")


def _broken(*_: object, **__: object) -> None:
    raise KeyError("a row that is not there")


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


TROUBLES = ("none", "a ledger that breaks", "a full store", "a cut link")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(fresh_sqlite(tmp_path))
    ledger.open()
    yield ledger
    ledger.close()


@asynccontextmanager
async def readers(
    trouble: Trouble, ledger: Ledger, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Handler]]:
    """Every handler of the two adapters, their ledgers at work behind them."""
    wire, store = trouble.wire, FsspecStore(f"file://{directory}/store")
    config = StorageAdapterConfig(credential="c", ledger="", store="", staging=str(directory / "staging"))
    jobs = JobAdapter(wire, ledger, store, Metrics("job", CollectorRegistry()))
    files = StorageAdapter(wire, ledger, store, FsspecContents(store), config, Metrics("store", CollectorRegistry()))
    trouble.spoil(ledger, store, monkeypatch)
    tasks = [asyncio.create_task(one._intake.run()) for one in (jobs, files)]
    calls: Calls = jobs._calls
    try:
        yield {
            "intake": jobs._intake.on_delivery,
            "calls": calls.on_delivery,
            "rejected": Rejected(jobs._intake.dead_letters).on_delivery,
            "openings": files._transfer_server.on_opening,
            "chunks": files._transfer_server.on_chunk,
            "control": files._transfer_server.on_message,
            "completions": files._on_completion,
        }
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await files._transfer_server.close()


class Deliveries:
    """Deliveries by the link's own receiver; knows which are settled."""

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self._tasks: list[asyncio.Future[None]] = []

    def hand(self, name: str, handler: Handler, sender: str, kind: str, body: bytes) -> None:
        channel = self.channels[name] = Channel()
        channel.routing_key = f"{sender}.{kind}"  # type: ignore[misc]
        channel.exchange = "vc.up"  # type: ignore[misc]
        receive = receiver(Subscription(queue="q", handler=handler), channel, self._start)
        receive(None, channel, Content(sender), body)

    def unsettled(self) -> list[str]:
        return [name for name, channel in self.channels.items() if not channel.settled]

    def twice(self) -> list[str]:
        return [name for name, channel in self.channels.items() if len(channel.settled) > 1]

    def _start(self, work: Any) -> None:
        self._tasks.append(asyncio.ensure_future(work))


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_every_message_from_everybody_is_settled_once_by_every_reader(
    trouble: str, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries = Deliveries()
    async with readers(Trouble(trouble), ledger, tmp_path, monkeypatch) as handlers:
        for reader, handler in handlers.items():
            for op in MESSAGES:
                for sender in SENDERS if op.startswith(("job.", "keys.")) else SENDERS[:3]:
                    deliveries.hand(f"{reader}: {op} of {sender}", handler, sender, "beat", encode(example(op)))
            deliveries.hand(f"{reader}: nonsense", handler, "vm-a", "beat", b"\xc1")
            deliveries.hand(f"{reader}: a foreign key", handler, "", "beat", encode(example("job.beat")))

        await until(lambda: deliveries.unsettled() == [], 60)

    assert deliveries.twice() == []


async def test_a_completion_whose_output_the_store_does_not_take_is_settled_and_its_guest_told(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    completion = _carrying_completion()
    body = encode(completion)
    deliveries = Deliveries()
    trouble = Trouble("a full store")
    async with readers(trouble, ledger, tmp_path, monkeypatch) as handlers:
        monkeypatch.setattr(StorageAdapter, "_store_awaited", _full)
        deliveries.hand("full", handlers["completions"], "vm-a", "completion", body)
        await until(lambda: deliveries.unsettled() == [], 20)
        told = trouble.wire.sent_to(DOWN)
        monkeypatch.setattr(StorageAdapter, "_store_awaited", _broken)
        deliveries.hand("broken", handlers["completions"], "vm-a", "completion", body)

        await until(lambda: deliveries.unsettled() == [], 20)

    assert [(key, type(one), getattr(one, "call", ""), getattr(one, "code", "")) for key, one in told] == [
        (queue_of("vm-a"), Failed, completion.id, ErrorCode.STORE)
    ]
    assert deliveries.channels["full"].settled == ["acknowledged"]


def _carrying_completion() -> JobCompletion:
    entry = OutputEntry(name="out", size=2, sha256="0" * 64, content=b"{}")
    completion = cast(JobCompletion, example("job.completion"))
    return JobCompletion(job=completion.job, attempt=1, outcome=completion.outcome, outputs=[entry])


class BrokenRegistrar:
    """A registrar whose every answer fails, in a way that nobody foresaw."""

    upkeep = cutting = None
    spares = SpareLogins(FakeRealm())

    def kin_of(self, sender: str) -> str:
        return sender

    def handle(self, *_: object) -> None:
        raise ZeroDivisionError


async def test_the_key_manager_settles_what_breaks_its_registrar() -> None:
    wire = MemoryCarrier("keys")
    service = Service(wire, cast(Any, BrokenRegistrar()), cast(Any, None), lifetime_s=1, sweep_s=1)
    deliveries = Deliveries()

    for op in MESSAGES:
        for sender in SENDERS:
            deliveries.hand(f"{op} of {sender}", service._on_delivery, sender, "enrol", encode(example(op)))

    await until(lambda: deliveries.unsettled() == [], 60)
    assert deliveries.twice() == []
