"""The server of transfers without a broker: who is heard, how much room one sender gets, what is never handed out."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import NoStagingRoom
from adapters.metrics import Metrics
from adapters.storage.contents import FsspecContents
from adapters.storage.staging import LEFT_BEHIND_S
from adapters.storage.store import FsspecStore
from adapters.storage.transfer_server import LIMITS, TransferServer
from broker.connection import Delivery
from broker.dead_letters import DeadLetterPublisher
from broker.memory import MemoryCarrier
from broker.offences import Offences
from broker.routes import DEAD
from broker.transfer import Transfers
from broker.transfer.core import Outbound
from broker.transfer.sending import digest_file
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import (
    FileAbort,
    FileChunk,
    FileDone,
    FileGet,
    FileOffer,
    FileWait,
    FileWindow,
    InputFile,
    OutputFile,
)
from schemas.jobs import JobBeat
from tests.broker.polling import until
from tests.unit.posts import Post

CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Room:
    """A server of transfers with its store, and what it said."""

    def __init__(self, directory: Path, **bounds: int) -> None:
        self.wire = MemoryCarrier("adapter-store-1")
        self.store = FsspecStore(f"file://{directory}/store")
        self.staging = directory / "staging"
        #: The hosts of VMs.
        self.hosts: dict[str, str] = {}
        #: Bytes that VMs may store, by name.
        self.allowed: dict[str, int] = {}
        #: VMs with the digests that their attempts name; None: all that anybody asks for.
        self.held: set[tuple[str, str]] | None = None
        #: Who was cut off.
        self.cut: list[str] = []
        metrics = Metrics("adapter-store-1", CollectorRegistry())
        transfers = Transfers(self.wire)
        self.dead_letters = DeadLetterPublisher(self.wire, cut_off=lambda who, _: self.cut.append(who))
        self.transfer_server = TransferServer(
            transfers,
            self.store,
            self.staging,
            self._may_store,
            self._may_have,
            self._host_of,
            self.dead_letters,
            metrics,
            **bounds,
        )

    async def _host_of(self, vm: str) -> str:
        return self.hosts.get(vm, "host-of-the-others")

    async def _may_have(self, vm: str, sha256: str) -> bool:
        return self.held is None or (vm, sha256) in self.held

    async def _may_store(self, sender: str, file: OutputFile) -> int | None:
        return self.allowed.get(sender)

    def open(self, sender: str, message: Message) -> Post:
        return self.hand(self.transfer_server.on_opening, sender, message)

    def hand(
        self,
        take: Callable[[Delivery], Awaitable[None] | None],
        sender: str,
        message: Message | bytes,
        *,
        user: str = "",
    ) -> Post:
        post = Post(f"{sender}.offer", message, user)
        work = take(post.delivery)
        if work is not None:
            asyncio.ensure_future(work)  # noqa: RUF006  done in a turn of the loop
        return post

    def dead_letters_sent(self) -> int:
        return sum(exchange == DEAD for exchange, _, _ in self.wire.sent)

    def windows(self, offer: FileOffer) -> list[FileWindow]:
        return [m for _, m in self.said(FileWindow) if isinstance(m, FileWindow) and m.transfer == offer.id]

    def send(self, sender: str, offer: FileOffer, data: bytes) -> None:
        """Send the next bytes, as far as they fit one window."""
        end = Outbound(transfer=offer.id, size=offer.size)
        end.on_window(self.windows(offer)[-1])
        begin = end.next
        for at in range(0, len(data), end.chunk):
            chunk = end.render(begin + at, data[at : at + end.chunk])
            self.transfer_server.on_chunk(Post(f"{sender}.chunk.adapter-store-1", chunk).delivery)

    def abort(self, sender: str, offer: FileOffer) -> None:
        word = FileAbort(transfer=offer.id, code=ErrorCode.INTERRUPTED, message="the sender was stopped")
        self.transfer_server.on_message(Post(f"{sender}.control.adapter-store-1", word).delivery)

    def partials(self) -> list[Path]:
        return sorted(self.staging.glob("*.part"), key=lambda path: path.stat().st_mtime)

    def said(self, kind: type[Message]) -> list[tuple[str, Message]]:
        spoken = [pair for exchange in ("vc.down", "vc.up") for pair in self.wire.sent_to(exchange)]
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
    await until(lambda: [post.acked for post in posts] == [1, 1])

    assert {exchange for exchange, _, _ in room.wire.sent} == {DEAD}
    await room.transfer_server.close()


async def test_what_can_be_read_and_is_not_for_the_transfer_server_is_a_dead_letter_of_its_sender(room: Room) -> None:
    """It once had no effect, and no cost either: the queues could be kept full of it for ever."""
    beat, chunk = JobBeat(holding=[]), FileChunk(transfer="t", epoch=1, offset=0, crc32=0, data=b"x")
    transfer_server = room.transfer_server
    posts = [
        room.hand(transfer_server.on_opening, "vm-a", beat),
        room.hand(transfer_server.on_opening, "vm-a", FileGet(file=InputFile(sha256=SHA256)), user="vm-b"),
        room.hand(transfer_server.on_message, "vm-a", beat),
        room.hand(transfer_server.on_message, "vm-a", chunk),
        room.hand(transfer_server.on_chunk, "vm-a", FileWindow(transfer="t", epoch=1, offset=0, limit=1)),
    ]

    await until(lambda: [post.acked for post in posts] == [1] * 5)

    assert room.dead_letters_sent() == 5
    await transfer_server.close()


async def test_chunks_of_no_transfer_cost_a_connection_in_the_end_and_openings_beyond_the_room_do_not(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest ends send some chunks when a transfer has just ended, and say each opening again until it is served: a VM
    with many outputs was once cut off for them after an outage."""
    monkeypatch.setattr("broker.offences.OFFENCES", 20)
    room.dead_letters._offences = Offences()
    chunk = FileChunk(transfer="t", epoch=1, offset=0, crc32=0, data=b"x")

    posts = [room.hand(room.transfer_server.on_chunk, "vm-a", chunk) for _ in range(30)]
    is_beyond = room.dead_letters.is_beyond("vm-a")  # what it may do grows again from now on
    for _ in range(LIMITS.known_of_one + 30):
        room.open("vm-b", FileGet(file=InputFile(sha256=SHA256)))

    assert [post.acked for post in posts] == [1] * 30
    assert room.dead_letters_sent() == 0
    assert room.cut == ["vm-a"]
    assert is_beyond
    assert not room.dead_letters.is_beyond("vm-b")
    await room.transfer_server.close()


async def test_chunks_that_bring_no_file_on_are_counted_though_a_transfer_is_open(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.offences.OFFENCES", 20)
    room.dead_letters._offences = Offences()
    room.allowed["vm-a"] = 1 << 30
    offer = output_offer(1 << 20)
    room.open("vm-a", offer)
    await until(lambda: room.said(FileWindow))
    old = FileChunk(transfer=offer.id, epoch=0, offset=0, crc32=0, data=b"x")

    for _ in range(30):
        room.hand(room.transfer_server.on_chunk, "vm-a", old)

    assert room.cut == ["vm-a"]
    await room.transfer_server.close()


async def test_one_sender_cannot_take_the_room_of_the_others(room: Room) -> None:
    room.store.put_bytes(CONTENT, InputFile(sha256=SHA256))
    for _ in range(LIMITS.known_of_one + 20):
        room.open("vm-greedy", FileGet(file=InputFile(sha256=SHA256)))
    room.open("vm-other", FileGet(file=InputFile(sha256=SHA256)))

    await until(lambda: len(room.said(FileOffer)) > LIMITS.at_work_of_one)
    await asyncio.sleep(0.1)

    offers = Counter(key for key, _ in room.said(FileOffer))
    assert offers == {"vm.greedy.files": LIMITS.at_work_of_one, "vm.other.files": 1}
    assert room.transfer_server.queue.known == LIMITS.known_of_one + 1
    assert Counter(key for key, _ in room.said(FileWait)) == {"vm.greedy.files": 20}
    await room.transfer_server.close()
    await asyncio.sleep(0)
    assert room.transfer_server.queue.known == 0


async def test_a_damaged_input_is_not_handed_out(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    room.store.put_bytes(b"damaged", InputFile(sha256=SHA256))

    room.open("vm-a", FileGet(file=InputFile(sha256=SHA256)))
    await until(lambda: room.wire.sent)

    ((_, answer),) = room.said(FileAbort)
    assert isinstance(answer, FileAbort)
    assert answer.code == ErrorCode.CONFLICT
    assert "the store's file is damaged" in answer.message
    assert "damaged" in caplog.text
    await room.transfer_server.close()


async def test_a_disk_that_fails_is_told_to_who_asked(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.store.put_bytes(CONTENT, InputFile(sha256=SHA256))

    def failing(path: Path) -> tuple[int, str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("adapters.storage.file_transfers.digest_file", failing)

    room.open("vm-a", FileGet(file=InputFile(sha256=SHA256)))
    await until(lambda: room.wire.sent)

    ((_, answer),) = room.said(FileAbort)
    assert isinstance(answer, FileAbort)
    assert (answer.code, "Input/output error" in answer.message) == (ErrorCode.STORE, True)
    await room.transfer_server.close()


def test_what_killed_adapters_left_in_staging_and_store_goes_when_it_is_old(room: Room, tmp_path: Path) -> None:
    """Also partial files of transfers that broke off: those once stayed for ever."""
    room.store.put_bytes(CONTENT, InputFile(sha256=SHA256))
    unfinished = tmp_path / "store" / "unfinished"
    for directory in (room.staging, unfinished):
        for name in ("out-1", "in-1.part", "in-1.mark", "in-2"):
            for age in ("old", "new"):
                (directory / f"{age}-{name}").touch()
                if age == "old":
                    os.utime(directory / f"{age}-{name}", (0, time.time() - LEFT_BEHIND_S - 10))

    aside = unfinished / f"{SHA256}.aside"
    (tmp_path / "store" / "inputs" / SHA256[:2] / SHA256).rename(aside)
    os.utime(aside, (0, 0))

    room.transfer_server.remove_left_behind()
    first = {path.name[:4] for path in unfinished.iterdir()}
    room.transfer_server.remove_left_behind()
    FsspecContents(room.store).put_back()

    assert "old-" in first, "the machine's clock may just have been set: it is looked at once more"
    for directory in (room.staging, unfinished):
        assert {path.name[:4] for path in directory.iterdir()} == {"new-"}
    assert room.store.has_input(SHA256), "an input that is put aside is not unfinished"


def output_offer(size: int, name: str = "big", content: bytes = b"", attempt: int = 1) -> FileOffer:
    file = OutputFile(job="site-a/j.1", attempt=attempt, name=name)
    return FileOffer(file=file, size=size or len(content), sha256=hashlib.sha256(content).hexdigest())


async def test_an_output_over_its_jobs_limit_is_refused_before_its_first_byte(room: Room) -> None:
    """`truncate -s 6G` in a job once wrote 6 GB here; it is refused by the number that was offered."""
    room.allowed["vm-a"] = 64 << 20
    room.store.put_bytes(bytes(1000), OutputFile(job="site-a/j.1", attempt=1, name="other"))

    room.open("vm-a", output_offer(6 << 30))
    room.open("vm-a", output_offer((64 << 20) - 999, name="just"))
    await until(lambda: len(room.wire.sent) == 2)

    answers = sorted((message for _, message in room.said(FileAbort)), key=lambda answer: "'just'" in answer.message)  # type: ignore[attr-defined]
    assert [answer.code for answer in answers] == [ErrorCode.TOO_LARGE] * 2  # type: ignore[attr-defined]
    assert "6442451944 bytes are over the limit of 64 MiB" in answers[0].message  # type: ignore[attr-defined]
    assert "67108865 bytes are over the limit of 64 MiB" in answers[1].message  # type: ignore[attr-defined]
    assert not room.said(FileWindow)
    assert list(room.staging.iterdir()) == []
    await room.transfer_server.close()


async def test_outputs_of_one_attempt_that_come_together_count_together(room: Room) -> None:
    room.allowed["vm-a"] = 64 << 20

    room.open("vm-a", output_offer(40 << 20, name="first"))
    await until(lambda: room.said(FileWindow))
    room.open("vm-a", output_offer(40 << 20, name="second"))
    await until(lambda: room.said(FileAbort))

    ((_, answer),) = room.said(FileAbort)
    assert "'second'" in answer.message  # type: ignore[attr-defined]
    await room.transfer_server.close()


async def test_two_vms_that_choose_the_same_transfer_do_not_meet_on_the_disk(room: Room) -> None:
    room.allowed |= {"vm-a": 1 << 30, "vm-b": 1 << 30}
    offer = output_offer(1 << 20)

    room.open("vm-a", offer)
    await until(lambda: room.said(FileWindow))
    (mine,) = room.staging.glob("*.part")
    room.open("vm-b", offer)
    await room.transfer_server.close()

    assert [path.name for path in room.staging.iterdir()] == [mine.name]
    assert mine.name.startswith("in-vm-a.")


async def test_a_file_comes_to_the_store_without_a_second_copy_of_it(room: Room, tmp_path: Path) -> None:
    """One job with 300 MB once cost 600."""
    local = tmp_path / "local"
    local.write_bytes(CONTENT)
    inode = local.stat().st_ino

    room.store.put(local, InputFile(sha256=SHA256))

    path = room.store.local(InputFile(sha256=SHA256))
    assert path is not None
    assert (path.stat().st_ino, local.exists()) == (inode, False)


async def test_who_asks_again_while_a_file_is_read_for_its_digest_hears_that_we_are_there(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was once given up after 45 s of silence, and read anew at each question."""
    room.store.put_bytes(CONTENT, InputFile(sha256=SHA256))
    reads, may_go = [], threading.Event()

    def slowly(path: Path) -> tuple[int, str]:
        reads.append(path)
        may_go.wait(30)
        return digest_file(path)

    monkeypatch.setattr("adapters.storage.file_transfers.digest_file", slowly)
    get = FileGet(file=InputFile(sha256=SHA256))
    for _ in range(3):
        room.open("vm-a", get)
        await until(lambda: reads)

    assert [message.transfer for _, message in room.said(FileWait)] == [get.id] * 2  # type: ignore[attr-defined]
    may_go.set()
    await until(lambda: room.said(FileOffer))
    assert len(reads) == 1
    await room.transfer_server.close()


async def test_an_input_that_many_ask_for_is_read_for_its_digest_once(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.store.put_bytes(CONTENT, InputFile(sha256=SHA256))
    reads: list[Path] = []

    def note(path: Path) -> tuple[int, str]:
        reads.append(path)
        return digest_file(path)

    monkeypatch.setattr("adapters.storage.file_transfers.digest_file", note)
    for number in range(9):
        room.open(f"vm-{number}", FileGet(file=InputFile(sha256=SHA256)))
    await until(lambda: len(room.said(FileOffer)) == 9)

    assert len(reads) == 1
    room.store.put_bytes(b"damage!", InputFile(sha256=SHA256))
    room.open("vm-9", FileGet(file=InputFile(sha256=SHA256)))
    await until(lambda: room.said(FileAbort))
    assert len(reads) == 2
    await room.transfer_server.close()


async def test_an_output_that_is_there_is_read_once_however_often_it_is_offered(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.allowed["vm-a"] = 1 << 30
    offer = output_offer(0, content=CONTENT)
    assert isinstance(offer.file, OutputFile)
    room.store.put_bytes(CONTENT, offer.file)
    reads: list[object] = []
    read = room.store.digest
    monkeypatch.setattr(room.store, "digest", lambda file: reads.append(file) or read(file))

    for count in (1, 2, 3):
        room.open("vm-a", output_offer(0, content=CONTENT))
        await until(lambda count=count: len(room.said(FileDone)) == count)

    assert len(reads) == 1
    await room.transfer_server.close()


async def test_a_vm_that_leaves_one_transfer_after_the_other_keeps_no_more_than_one_on_the_disk(tmp_path: Path) -> None:
    """16 GiB nearly whole, silence, a new id, again: each once stayed for a day, until the disk was full."""
    room = Room(tmp_path, most_staged_bytes=32 << 20)
    room.allowed["vm-a"] = 16 << 20
    data = os.urandom(2 << 20)
    for number in range(4):
        offer = output_offer(16 << 20, content=str(number).encode())
        room.open("vm-a", offer)
        await until(lambda offer=offer: room.windows(offer))
        room.send("vm-a", offer, data[: 1 << 20])
        await until(lambda: room.partials()[-1].stat().st_size == 1 << 20)
        room.abort("vm-a", offer)
        await until(lambda: not room.transfer_server.queue.known)

    assert len(room.partials()) == 1
    await room.transfer_server.close()


async def test_what_was_promised_to_one_host_is_not_there_for_its_other_vms(tmp_path: Path) -> None:
    room = Room(tmp_path, most_staged_bytes=32 << 20)
    room.allowed |= {"vm-a": 12 << 20, "vm-b": 12 << 20, "vm-c": 12 << 20}
    room.hosts |= {"vm-a": "host-1", "vm-b": "host-1", "vm-c": "host-2"}
    offers = {vm: output_offer(12 << 20, attempt=number) for number, vm in enumerate(room.allowed)}

    room.open("vm-a", offers["vm-a"])
    await until(lambda: room.windows(offers["vm-a"]))
    room.open("vm-b", offers["vm-b"])
    room.open("vm-c", offers["vm-c"])
    await until(lambda: room.windows(offers["vm-c"]) and room.said(FileAbort))

    ((key, answer),) = room.said(FileAbort)
    assert isinstance(answer, FileAbort)
    assert (key, answer.code) == ("vm.b.files", ErrorCode.NO_ROOM)
    for word in ("12582912 bytes of vm-b", "all of host-1 may take 16777216 bytes", "staging_mib"):
        assert word in answer.message
    await room.transfer_server.close()


def two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> tuple[Room, dict[str, FileOffer]]:
    """Have room for two at work, whose turn is over at once; two VMs of a host and one of another offer the same."""
    places = {"at_work": 2, "at_work_of_one": 2, "at_work_of_kin": 2}
    monkeypatch.setattr("adapters.storage.transfer_server.LIMITS", msgspec.structs.replace(LIMITS, **places))
    monkeypatch.setattr("broker.transfer.scheduler.TURN_S", 0.0)
    room = Room(tmp_path)
    vms = ("vm-a", "vm-b", "vm-c")
    room.allowed |= dict.fromkeys(vms, 1 << 30)
    room.hosts |= {"vm-a": "host-1", "vm-b": "host-1", "vm-c": "host-2"}
    return room, {vm: output_offer(0, content=data, attempt=number) for number, vm in enumerate(vms)}


async def test_a_transfer_that_gives_way_to_another_host_goes_on_where_it_got_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VMs of one host once could hold every place for as long as they liked."""
    data = os.urandom(3 << 19)
    room, offers = two_places(tmp_path, monkeypatch, data)
    for vm in ("vm-a", "vm-b"):
        room.open(vm, offers[vm])
        await until(lambda vm=vm: room.windows(offers[vm]))
    room.send("vm-a", offers["vm-a"], data[: 1 << 19])
    await until(lambda: any(path.stat().st_size == 1 << 19 for path in room.partials()))

    room.open("vm-c", offers["vm-c"])
    await until(lambda: room.windows(offers["vm-c"]))
    room.open("vm-a", offers["vm-a"])
    waits = [message for key, message in room.said(FileWait) if key == "vm.a.files"]
    before = room.windows(offers["vm-a"])[-1].epoch
    room.abort("vm-b", offers["vm-b"])
    await until(lambda: room.windows(offers["vm-a"])[-1].epoch > before)
    assert room.windows(offers["vm-a"])[-1].offset == 1 << 19
    room.send("vm-a", offers["vm-a"], data[1 << 19 :])
    await until(lambda: room.said(FileDone))

    assert len(waits) == 1
    stored = room.store.local(offers["vm-a"].file)  # type: ignore[arg-type]
    assert stored is not None
    assert stored.read_bytes() == data
    await room.transfer_server.close()


async def test_a_file_that_has_all_its_bytes_is_stored_though_its_place_is_taken_away_meanwhile(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host's opening came as the file was on its way to the store: it was removed there, and sent anew."""
    room.allowed["vm-a"] = 1 << 30
    data = os.urandom(1 << 18)
    offer = output_offer(0, content=data)
    has_begun, may_go = threading.Event(), threading.Event()
    put = FsspecStore.put

    def slowly(store: FsspecStore, local: Path, file: OutputFile) -> None:
        has_begun.set()
        may_go.wait(30)
        put(store, local, file)

    monkeypatch.setattr(FsspecStore, "put", slowly)
    room.open("vm-a", offer)
    await until(lambda: room.windows(offer))
    room.send("vm-a", offer, data)
    await until(has_begun.is_set)
    request = room.transfer_server.queue._scheduler.get(offer.id)
    assert request is not None
    assert request.task is not None
    request.is_preempted = True
    request.task.cancel()
    for _ in range(20):
        await asyncio.sleep(0.005)
    may_go.set()
    await asyncio.wait([request.task], timeout=20)

    stored = room.store.local(offer.file)  # type: ignore[arg-type]
    assert stored is not None
    assert stored.read_bytes() == data
    assert room.said(FileDone)
    assert room.partials() == []
    await room.transfer_server.close()


async def test_a_file_whose_bytes_are_all_there_does_not_give_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(1 << 18)
    room, offers = two_places(tmp_path, monkeypatch, data)
    has_begun, may_go = threading.Event(), threading.Event()
    put = FsspecStore.put

    def slowly(store: FsspecStore, local: Path, file: OutputFile) -> None:
        has_begun.set()
        may_go.wait(30)
        put(store, local, file)

    monkeypatch.setattr(FsspecStore, "put", slowly)
    for vm in ("vm-a", "vm-b"):
        room.open(vm, offers[vm])
        await until(lambda vm=vm: room.windows(offers[vm]))
    room.send("vm-a", offers["vm-a"], data)
    await until(has_begun.is_set)

    room.open("vm-c", offers["vm-c"])
    await until(lambda: room.windows(offers["vm-c"]))

    assert not room.said(FileDone)
    may_go.set()
    await until(lambda: room.said(FileDone))
    await room.transfer_server.close()


async def test_what_gave_way_counts_as_waiting_and_is_not_removed_for_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as broken off: the next offer removed it, and it was sent anew from its first byte."""
    places = {"at_work": 2, "at_work_of_one": 2, "at_work_of_kin": 2}
    monkeypatch.setattr("adapters.storage.transfer_server.LIMITS", msgspec.structs.replace(LIMITS, **places))
    monkeypatch.setattr("broker.transfer.scheduler.TURN_S", 0.0)
    room = Room(tmp_path, most_staged_bytes=64 << 20)
    vms = ("vm-a", "vm-b", "vm-c")
    room.allowed |= dict.fromkeys(vms, 1 << 30)
    room.hosts |= {"vm-a": "host-1", "vm-b": "host-1", "vm-c": "host-2"}
    data = os.urandom(3 << 19)
    offers = {vm: output_offer(0, content=data, attempt=number) for number, vm in enumerate(vms)}
    for vm in ("vm-a", "vm-b"):
        room.open(vm, offers[vm])
        await until(lambda vm=vm: room.windows(offers[vm]))
    room.send("vm-a", offers["vm-a"], data[: 1 << 19])
    await until(lambda: any(path.stat().st_size == 1 << 19 for path in room.partials()))
    (part,) = room.staging.glob("in-vm-a.*.part")
    room.open("vm-c", offers["vm-c"])
    await until(lambda: room.windows(offers["vm-c"]))

    with pytest.raises(NoStagingRoom, match="unfinished files of vm-a"):
        async with room.transfer_server._staging.room_for("vm-a", "f" * 40, 16 << 20):
            pass

    assert part.stat().st_size == 1 << 19
    await room.transfer_server.close()
