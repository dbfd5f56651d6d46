"""A console's files: whom it blames for a silence, what it leaves, what it refuses to send."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from broker.errors import Disconnected, TransferFailed
from broker.memory import MemoryCarrier
from broker.transfer import Transfers, into_file
from broker.transfer.receiving import Receiving
from broker.transfer.sending import FileSource, Sending
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileGet, FileOffer, FileWait, GuestFile
from tests.broker.polling import until
from volcloud.client.watched_transfers import WatchedTransfers
from volcloud.errors import BadInput, CommandFailed, Unreachable

VM = "vm-a"
STILL_S = 0.6


class FrozenWire(MemoryCarrier):
    """A link whose broker takes nothing while ``is_frozen``."""

    def __init__(self) -> None:
        super().__init__("console-a")
        self.is_frozen = False
        self.unconfirmed: list[asyncio.Future[None]] = []

    def send(self, exchange: str, key: str, body: bytes, **options: object) -> asyncio.Future[None]:
        if not self.is_frozen:
            return super().send(exchange, key, body, **options)
        self.unconfirmed.append(asyncio.get_running_loop().create_future())
        return self.unconfirmed[-1]

    def break_off(self) -> None:
        for future in self.unconfirmed:
            future.set_exception(Disconnected("the broker is frozen"))
            future.exception()
        self.unconfirmed.clear()


class Person:
    """A console and the silence that its VM keeps."""

    def __init__(self, still_s: float = STILL_S, say_s: float = 30.0) -> None:
        self.wire = FrozenWire()
        self.transfers = Transfers(self.wire)
        self.told: list[str] = []
        self.calls = WatchedTransfers(self.transfers, self.told.append, still_s=still_s, say_s=say_s)

    def gets(self) -> list[FileGet]:
        return [message for _, message in self.wire.sent_to("vc.down") if isinstance(message, FileGet)]

    def aborts(self) -> list[FileAbort]:
        return [message for _, message in self.wire.sent_to("vc.down") if isinstance(message, FileAbort)]


async def test_a_vm_that_says_nothing_is_given_up_and_told(tmp_path: Path) -> None:
    person = Person()

    with pytest.raises(CommandFailed, match="vm-a did not answer"):
        await person.calls.pull(VM, "f", tmp_path / "f")

    assert [abort.code for abort in person.aborts()] == [ErrorCode.INTERRUPTED]
    assert list(tmp_path.iterdir()) == []


async def test_a_vm_that_reads_for_long_is_waited_for(tmp_path: Path) -> None:
    """Reading 3.5 GB for a digest takes longer than a console once waited."""
    person = Person()
    pulling = asyncio.ensure_future(person.calls.pull(VM, "f", tmp_path / "f"))
    await until(person.gets)

    for _ in range(3):
        await asyncio.sleep(STILL_S / 2)
        person.transfers.on_message(VM, FileWait(transfer=person.gets()[0].id))
    assert not pulling.done()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    person.transfers.on_message(VM, FileOffer(id=person.gets()[0].id, file=GuestFile(path="f"), size=0, sha256=empty))

    assert (await asyncio.wait_for(pulling, 10)).size == 0


@pytest.mark.parametrize("way", ["push", "pull"])
async def test_a_broker_that_is_frozen_is_not_the_vms_silence(tmp_path: Path, way: str) -> None:
    """Stopped for a minute it once had push and pull give up as it came back, and blame the VM."""
    (tmp_path / "local").write_bytes(b"content")
    person = Person()
    person.wire.is_frozen = True
    work = (
        person.calls.push(tmp_path / "local", VM, "f") if way == "push" else person.calls.pull(VM, "f", tmp_path / "f")
    )
    moving = asyncio.ensure_future(work)

    await asyncio.sleep(2 * STILL_S)
    person.wire.break_off()
    await asyncio.sleep(STILL_S)
    assert not moving.done()
    person.wire.is_frozen = False

    with pytest.raises(CommandFailed, match="vm-a did not answer"):
        await asyncio.wait_for(moving, 20)


async def test_an_offer_that_lies_in_ones_own_line_is_not_followed_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow line they came one after the other behind the chunks, and each had these sent again."""
    monkeypatch.setattr("broker.transfer.sending.Sending.run", _silences)
    (tmp_path / "local").write_bytes(b"content")
    person = Person()
    person.wire.is_frozen = True

    await person.calls.push(tmp_path / "local", VM, "f")

    assert len(person.wire.unconfirmed) == 1


async def _silences(sending: Sending) -> None:
    for _ in range(10):
        sending._tell(sending._offer)


async def test_neither_end_counts_silences_that_are_the_brokers(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    offer = FileOffer(file=GuestFile(path="f"), size=7, sha256="0" * 64)
    heard = False
    told: list[Message] = []
    sending = Sending(
        offer, FileSource(tmp_path / "source"), lambda _: asyncio.Future(), told.append,
        silence_s=0.01, most_offers=3, is_heard=lambda: heard,
    )  # fmt: skip
    receiving = Receiving(
        offer,
        into_file(tmp_path / "t", tmp_path / "t.part"),
        told.append,
        stall_s=0.01,
        most_stalls=3,
        is_heard=lambda: heard,
    )
    ends = [asyncio.ensure_future(end.run()) for end in (sending, receiving)]

    await until(lambda: len(told) > 20)
    assert not any(end.done() for end in ends)
    heard = True

    for end in ends:
        with pytest.raises(TransferFailed) as caught:
            await asyncio.wait_for(end, 10)
        assert caught.value.code is ErrorCode.TIMEOUT


async def test_what_is_no_file_is_not_pushed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    person = Person()

    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path, tmp_path / "none"):
        with pytest.raises(BadInput, match="cannot be read"):
            await asyncio.wait_for(person.calls.push(path, VM, "f"), 10)

    assert person.wire.sent == []


async def test_a_pull_removes_what_killed_consoles_left_of_the_same(tmp_path: Path) -> None:
    person = Person(still_s=0.1)
    for name in (".f.0123456789ab.part", ".f.0123456789ab.mark", ".other.0123456789ab.part"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))

    with pytest.raises(CommandFailed):
        await person.calls.pull(VM, "f", tmp_path / "f")

    assert [path.name for path in tmp_path.iterdir()] == [".other.0123456789ab.part"]


async def test_nobody_waits_for_a_frozen_adapter_without_a_word(tmp_path: Path) -> None:
    """A storage adapter that was stopped was once told of after 45 s."""
    (tmp_path / "local").write_bytes(b"content")
    person = Person(still_s=1.2, say_s=0.2)

    with pytest.raises(Unreachable, match="no storage adapter answered"):
        await person.calls.upload(tmp_path / "local")

    (word,) = person.told
    assert "local: no word of the storage adapter for 0 s; given up after 1 s; `volcloud status` tells" in word


async def test_nobody_waits_for_a_broker_or_a_vm_without_a_word_and_each_silence_is_told_once(tmp_path: Path) -> None:
    person = Person(still_s=30, say_s=0.2)
    pulling = asyncio.ensure_future(person.calls.pull(VM, "f", tmp_path / "f"))
    await until(lambda: len(person.told) == 1)
    person.transfers.on_message(VM, FileWait(transfer=person.gets()[0].id))
    await until(lambda: len(person.told) == 2)
    await asyncio.sleep(0.3)
    assert len(person.told) == 2
    person.wire.is_frozen = True
    await until(lambda: person.wire.unconfirmed, 20)
    person.transfers.on_message(VM, FileWait(transfer=person.gets()[0].id))
    await until(lambda: len(person.told) == 3, 10)
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)

    assert ["of the vm-a" in word for word in person.told] == [True, True, False]
    assert "the broker has taken nothing" in person.told[2]


async def test_a_file_that_is_long_read_for_its_digest_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").write_bytes(b"content")
    may_go = threading.Event()
    person = Person(still_s=0.2, say_s=0.1)
    monkeypatch.setattr("broker.transfer.sending.digest_file", lambda *_: (may_go.wait(30), "0" * 64))

    pushing = asyncio.ensure_future(person.calls.push(tmp_path / "local", VM, "f"))
    await until(lambda: person.told)
    may_go.set()
    with pytest.raises(CommandFailed):
        await pushing

    assert "is read for its SHA-256" in person.told[0]


@pytest.mark.parametrize("name", ["n" * 239, "ü" * 127])
async def test_a_pull_to_a_name_as_long_as_a_disk_takes(tmp_path: Path, name: str) -> None:
    person = Person(still_s=0.1)

    with pytest.raises(CommandFailed):
        await person.calls.pull(VM, "f", tmp_path / name)

    assert list(tmp_path.iterdir()) == []
