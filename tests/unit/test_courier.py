"""The courier without a broker: who is heard, how much room one sender gets, what is never handed out."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.metrics import Metrics
from adapters.storage.courier import LEFT_BEHIND_S, MOST_OPEN_OF_ONE, MOST_WAITING_OF_ONE, Courier
from adapters.storage.store import Store
from broker.connection import Delivery
from broker.transfer import Transfers
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, InputFile, OutputFile
from tests.unit.wires import Post, Wire, until

CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Room:
    """A courier with its store, and what it said."""

    def __init__(self, directory: Path) -> None:
        self.wire = Wire("adapter-store-1")
        self.store = Store(f"file://{directory}/store")
        self.staging = directory / "staging"
        metrics = Metrics("adapter-store-1", CollectorRegistry())
        transfers = Transfers(self.wire.connection)
        self.courier = Courier(transfers, self.store, self.staging, self._may_store, self._bury, metrics)

    async def _may_store(self, sender: str, file: OutputFile) -> bool:
        return False

    async def _bury(self, delivery: Delivery, reason: str, text: str) -> None:
        delivery.ack()

    def open(self, sender: str, message: Message) -> Post:
        post = Post(f"{sender}.offer", message)
        self.courier.on_opening(post.delivery)
        return post

    def said(self, kind: type[Message]) -> list[tuple[str, Message]]:
        spoken = [pair for exchange in ("vc.down", "vc.up") for pair in self.wire.to(exchange)]
        return [(key, message) for key, message in spoken if isinstance(message, kind)]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


@pytest.mark.parametrize("sender", ["once-x", "keys", "adapter-store-2"])
async def test_who_may_not_be_written_to_gets_no_answer(room: Room, sender: str) -> None:
    posts = [
        room.open(sender, FileOffer(file=InputFile(sha256=SHA256), size=1, sha256=SHA256)),
        room.open(sender, FileGet(file=InputFile(sha256=SHA256))),
    ]
    await asyncio.sleep(0.1)

    assert [post.acked for post in posts] == [1, 1]
    assert room.wire.sent == []
    await room.courier.close()


async def test_one_sender_cannot_take_the_room_of_the_others(room: Room) -> None:
    room.store.put_bytes(CONTENT, InputFile(sha256=SHA256))
    for _ in range(MOST_OPEN_OF_ONE + MOST_WAITING_OF_ONE + 20):
        room.open("vm-greedy", FileGet(file=InputFile(sha256=SHA256)))
    room.open("vm-other", FileGet(file=InputFile(sha256=SHA256)))

    await until(lambda: len(room.said(FileOffer)) > MOST_OPEN_OF_ONE)
    await asyncio.sleep(0.1)

    offers = Counter(key for key, _ in room.said(FileOffer))
    assert offers == {"vm.greedy.files": MOST_OPEN_OF_ONE, "vm.other.files": 1}
    assert len(room.courier._serving) == MOST_OPEN_OF_ONE + MOST_WAITING_OF_ONE + 1
    await room.courier.close()
    await asyncio.sleep(0)
    assert (room.courier._serving, dict(room.courier._desks)) == ({}, {})


async def test_a_damaged_input_is_not_handed_out(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    room.store.put_bytes(b"damaged", InputFile(sha256=SHA256))

    room.open("vm-a", FileGet(file=InputFile(sha256=SHA256)))
    await until(lambda: room.wire.sent)

    ((_, answer),) = room.said(FileAbort)
    assert isinstance(answer, FileAbort)
    assert answer.code == ErrorCode.CONFLICT
    assert "the store's file is damaged" in answer.message
    assert "damaged" in caplog.text
    await room.courier.close()


async def test_a_disk_that_fails_is_told_to_who_asked(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.store.put_bytes(CONTENT, InputFile(sha256=SHA256))

    def failing(path: Path) -> tuple[int, str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("adapters.storage.courier.digest_file", failing)

    room.open("vm-a", FileGet(file=InputFile(sha256=SHA256)))
    await until(lambda: room.wire.sent)

    ((_, answer),) = room.said(FileAbort)
    assert isinstance(answer, FileAbort)
    assert (answer.code, "Input/output error" in answer.message) == (ErrorCode.STORE, True)
    await room.courier.close()


def test_copies_of_a_killed_adapter_are_removed_when_they_are_old(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    old, new, incoming = (staging / name for name in ("out-old", "out-new", "in-old"))
    for path in (old, new, incoming):
        path.touch()
    for path in (old, incoming):
        os.utime(path, (0, time.time() - LEFT_BEHIND_S - 1))

    Room(tmp_path)

    assert sorted(path.name for path in staging.iterdir()) == ["in-old", "out-new"]
