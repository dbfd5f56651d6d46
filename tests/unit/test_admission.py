"""What one stranger may send to the queues that all of them share; the rest is dropped unread, counted, and charged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.config import StorageAdapterConfig
from adapters.job.adapter import JobAdapter
from adapters.ledger.engine import Ledger
from adapters.metrics import Metrics
from adapters.storage.adapter import StorageAdapter
from adapters.storage.contents import FsspecContents
from adapters.storage.store import FsspecStore
from broker.admission import SHARES, Admission
from broker.connection import Delivery
from broker.dead_letters import DeadLetterPublisher
from broker.delivery import Gate, Subscription
from broker.inbound import receiver
from broker.keys.service import Service
from broker.memory import MemoryCarrier
from broker.offences import OFFENCE_BYTES, OFFENCES
from broker.principals import parse_principal
from broker.routes import CALLS, REJECTED, UP, payer_of
from broker.topology import Profile, centre_queues, queues_of
from schemas.codec import bundle, encode
from schemas.jobs import JobBeat
from tests.contract.ledger_fixtures import fresh_sqlite
from tests.unit.test_responder import Channel, Content

BEAT = encode(JobBeat(holding=[]))
NOW_S = 100.0


class Door:
    """A gate with what it leads to, and what was said of those that went too far."""

    def __init__(self, queue: str = "vc.beats", *, bundles: bool = False) -> None:
        self.now_s, self.noted = NOW_S, 0
        self.came: list[Delivery] = []
        self.cut: list[tuple[str, str]] = []
        self.dead_letters = DeadLetterPublisher(
            MemoryCarrier("adapter-job-1"), cut_off=self._cut_off, clock=self._clock
        )
        self.admission = Admission(self.dead_letters, self._note, clock=self._clock)
        self._subscription = Subscription(
            queue=queue, handler=self.came.append, bundles=bundles, gate=self.admission.gate(queue)
        )

    def send(self, sender: str, body: bytes = BEAT, *, key: str = "", exchange: str = UP) -> str:
        """Hand over one message; gives what became of it."""
        channel = Channel()
        channel.exchange, channel.routing_key = exchange, key or f"{sender}.beat"  # type: ignore[misc]
        before = len(self.came)
        receiver(self._subscription, channel, lambda _: None)(None, channel, Content(sender), body)
        return channel.settled[0] if len(self.came) == before else "let in"

    def _clock(self) -> float:
        return self.now_s

    def _note(self) -> None:
        self.noted += 1

    def _cut_off(self, who: str, reason: str) -> None:
        self.cut.append((who, reason))


def test_a_flood_of_good_messages_is_dropped_undecoded_and_others_are_let_in() -> None:
    door = Door()

    became = [door.send("vm-a") for _ in range(1000)]

    share = SHARES["vc.beats"].messages
    assert became == ["let in"] * share + ["acknowledged"] * (1000 - share)
    assert door.noted == 1000 - share
    assert door.send("vm-b") == "let in"
    door.now_s += 10
    assert door.send("vm-a") == "let in"


@pytest.mark.parametrize("queue", sorted(SHARES))
def test_every_queue_has_its_own_share_for_each_stranger(queue: str) -> None:
    share, name = SHARES[queue], f"{queue}.adapter-store-1" if queue == "vc.control" else queue
    gate = Door().admission.gate(name)

    assert [gate("vm-a", 10, 1) for _ in range(share.messages + 2)] == [True] * share.messages + [False] * 2
    assert gate("vm-b", 10, 1)
    assert not gate("vm-c", share.octets + 1, 1)


def test_large_messages_use_up_the_share_by_their_bytes() -> None:
    door, body = Door(), b"\x81" + bytes((1 << 20) - 1)

    became = [door.send("vm-a", body) for _ in range(30)]

    assert became.count("let in") == SHARES["vc.beats"].octets // len(body)
    assert door.send("vm-b", body) == "let in"


def test_a_bundle_is_as_many_as_its_messages() -> None:
    door, share = Door("vc.completions", bundles=True), SHARES["vc.completions"]

    sent = 0
    while door.send("vm-a", bundle([BEAT] * 64), key="vm-a.completion") == "let in":
        sent += 1

    assert sent == share.messages // 64


def test_who_goes_on_with_it_is_cut_off_by_name_and_nothing_of_it_is_read_meanwhile() -> None:
    door, chunks = Door(), Door("vc.chunks.adapter-store-1")
    chunks.dead_letters._offences = door.dead_letters._offences

    for _ in range(SHARES["vc.beats"].messages + OFFENCES + 10):
        door.send("vm-a")

    assert door.cut == [("vm-a", "too many messages without effect, the last one more than its share of vc.beats")]
    assert chunks.send("vm-a", key="vm-a.chunk.adapter-store-1") == "acknowledged"
    assert chunks.send("vm-b", key="vm-b.chunk.adapter-store-1") == "let in"


def test_who_goes_on_with_large_ones_is_cut_off_sooner() -> None:
    door, body = Door(), bytes(1 << 20)

    for _ in range((SHARES["vc.beats"].octets + OFFENCE_BYTES) // len(body) + 2):
        door.send("vm-a", body)

    assert [who for who, _ in door.cut] == ["vm-a"]


def test_openings_that_an_outage_has_gathered_are_dropped_and_their_sender_is_not_cut_off() -> None:
    """400 outputs of a VM, each offered every few seconds for hours: it once lost its connection for them."""
    door, body = Door("vc.offers"), bytes(300)

    became = [door.send("vm-a", body, key="vm-a.offer") for _ in range(SHARES["vc.offers"].messages + OFFENCES + 10)]

    assert became.count("let in") == SHARES["vc.offers"].messages
    assert door.cut == []
    large = bytes(1 << 20)
    for _ in range((SHARES["vc.offers"].octets + OFFENCE_BYTES) // len(large) + 2):
        door.send("vm-b", large, key="vm-b.offer")
    assert [who for who, _ in door.cut] == ["vm-b"], "bytes are charged all the same"


@pytest.mark.parametrize("sender", ["adapter-job-1", "console-operator", "keys"])
def test_the_centre_and_its_consoles_have_no_share(sender: str) -> None:
    door = Door()

    assert {door.send(sender, key=f"{sender}.beat") for _ in range(2000)} == {"let in"}
    assert door.cut == []


def test_a_message_without_a_name_is_at_the_cost_of_who_may_write_its_key() -> None:
    """It is nobody's to act on; but the broker lets nobody else write under that key."""
    door = Door()

    for _ in range(SHARES["vc.beats"].messages + OFFENCES + 10):
        door.send("", key="vm-a.beat")

    assert [who for who, _ in door.cut] == ["vm-a"]
    assert door.send("vm-b") == "let in"


def test_only_the_exchange_that_checks_keys_says_who_pays() -> None:
    assert payer_of(UP, "vm-a.beat", "") == "vm-a"
    assert payer_of(UP, "vm-a.beat", "vm-a") == "vm-a"
    assert payer_of(CALLS, "console-a.call", "") == ""
    assert payer_of(REJECTED, "vm.a", "") == ""
    assert payer_of(REJECTED, "vm.a", "adapter-job-1") == "adapter-job-1"


def test_those_without_any_name_share_one_share() -> None:
    door = Door("vc.rejected")

    became = [door.send("", key="vm.a", exchange=REJECTED) for _ in range(SHARES["vc.rejected"].messages + 1)]

    assert became[-1] == "acknowledged"
    assert door.send("vm-a", key="vm-a.refused") == "let in"
    assert door.cut == []


class ListeningWire(MemoryCarrier):
    """Notes what is consumed, and through which gate; never opens."""

    def __init__(self, user: str) -> None:
        super().__init__(user)
        self.gates: dict[str, Gate | None] = {}

    async def consume(self, queue: str, handler: Any, *, gate: Gate | None = None, **_: Any) -> None:
        self.gates[queue] = gate

    async def open(self) -> None:
        raise Opened

    async def close(self) -> None:
        pass


class Opened(Exception):
    """Everything that is consumed is known."""


@pytest.fixture
async def gates(tmp_path: Path) -> dict[str, Gate | None]:
    """The gates of all processes of the centre, by queue."""
    job, store, keys = ListeningWire("adapter-job-1"), ListeningWire("adapter-store-1"), ListeningWire("keys")
    ledger, files = Ledger(fresh_sqlite(tmp_path)), FsspecStore(f"file://{tmp_path}/store")
    ledger.open()
    config = StorageAdapterConfig(credential="c", ledger="", store="", staging=str(tmp_path / "staging"))
    with pytest.raises(Opened):
        await JobAdapter(job, ledger, files, Metrics("job", CollectorRegistry())).run(1.0)
    adapter = StorageAdapter(store, ledger, files, FsspecContents(files), config, Metrics("store", CollectorRegistry()))
    with pytest.raises(Opened):
        await adapter.run("adapter-store-1")
    service = Service(keys, Any, Any, lifetime_s=1, sweep_s=1)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):  # there is no registrar to sweep with
        await service.run()
    ledger.close()
    return job.gates | store.gates | keys.gates


async def test_whatever_strangers_may_write_is_read_through_a_gate(gates: dict[str, Gate | None]) -> None:
    specs = [*centre_queues(Profile.SINGLE), *queues_of(parse_principal("adapter-store-1"), Profile.SINGLE)]
    written = {spec.name for spec in specs if any(one.exchange == UP for one in spec.bindings)}

    assert {queue for queue, gate in gates.items() if gate is not None} == written


async def test_what_is_not_gated_no_stranger_can_fill(gates: dict[str, Gate | None]) -> None:
    ungated = {queue for queue, gate in gates.items() if gate is None and queue.startswith("vc.replies") is False}

    assert ungated == {"vc.calls", "vc.cuts"}
