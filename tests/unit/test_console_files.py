"""Files between consoles and a VM, at the VM: where they go, how many at once, what they leave, who is waited for."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.memory import MemoryCarrier
from broker.transfer import Transfers
from broker.transfer.scheduler import ASKER_GONE_S, TransferLimits
from broker.transfer.sending import digest_file, read_digest
from broker.transfer.threads import in_thread
from broker.transfer.transfer_queue import TransferQueue
from guest_agent.files import LIMITS, ConsoleFiles
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileChunk, FileDone, FileGet, FileOffer, FileWait, FileWindow, GuestFile
from tests.broker.polling import until

CONSOLE = "console-a"


class Guest:
    """A VM's files, a console that pushes to it whole files in one chunk, and what the VM said."""

    def __init__(self, directory: Path) -> None:
        self.wire = MemoryCarrier("vm-a")
        self.area = directory / "files"
        self.partials = directory / "partial"
        self.area.mkdir()
        self.transfers = Transfers(self.wire)
        self.files = ConsoleFiles(self.transfers, self.area, self.partials)

    def said(self, kind: type[Message]) -> list[Message]:
        return [message for _, message in self.wire.sent_to("vc.up") if isinstance(message, kind)]

    async def push(self, content: bytes, path: str, source: str = "card.dat", console: str = CONSOLE) -> Message:
        """Push, and give the last word."""
        sha256 = hashlib.sha256(content).hexdigest()
        offer = FileOffer(file=GuestFile(path=path, source=source), size=len(content), sha256=sha256)
        assert self.files.on_opening(console, offer)
        await until(lambda: self.of(offer.id))
        window = self.of(offer.id)[-1]
        if isinstance(window, FileWindow):
            self.transfers.on_message(console, chunk(window, content))
            await until(lambda: isinstance(self.of(offer.id)[-1], FileDone | FileAbort))
        return self.of(offer.id)[-1]

    def of(self, transfer: str) -> list[Message]:
        return [m for _, m in self.wire.sent_to("vc.up") if getattr(m, "transfer", "") == transfer]


def chunk(window: FileWindow, content: bytes) -> FileChunk:
    return FileChunk(
        transfer=window.transfer, epoch=window.epoch, offset=0, crc32=zlib.crc32(content), data=content, id="c"
    )


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


async def test_two_pushes_with_one_digest_to_two_places_are_both_whole(guest: Guest) -> None:
    """They once shared a partial file, and a file that began with 200,000 zeros was reported done."""
    content = os.urandom(200_000)

    words = await asyncio.gather(guest.push(content, "one"), guest.push(content, "two"))

    assert [type(word) for word in words] == [FileDone, FileDone]
    assert (guest.area / "one").read_bytes() == content == (guest.area / "two").read_bytes()
    assert list(guest.partials.iterdir()) == []
    await guest.files.close()


async def test_two_files_pushed_to_one_place_leave_one_of_them_whole(guest: Guest) -> None:
    contents = [os.urandom(100_000), os.urandom(200_000)]

    words = await asyncio.gather(*(guest.push(content, "place") for content in contents))

    assert [type(word) for word in words] == [FileDone, FileDone]
    assert (guest.area / "place").read_bytes() in contents
    await guest.files.close()


async def test_a_push_to_a_directory_goes_into_it_as_with_cp(guest: Guest) -> None:
    (guest.area / "inputs" / "taken.dat").mkdir(parents=True)

    assert isinstance(await guest.push(b"card", "inputs"), FileDone)
    assert (guest.area / "inputs" / "card.dat").read_bytes() == b"card"

    for path, source, why in (
        ("inputs", "taken.dat", "is a directory there"),
        ("none/", "card.dat", "there is no such directory"),
        ("inputs", "", "is a directory there"),
        ("inputs", "..", "must be a relative path"),
    ):
        word = await guest.push(b"card", path, source)
        assert isinstance(word, FileAbort)
        assert why in word.message
    await guest.files.close()


async def test_pulls_of_files_that_take_long_to_read_hold_up_nothing_else(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest's beats once waited for the threads that consoles' digests were in."""
    begun, goes_on = threading.Semaphore(0), threading.Event()

    def slow(path: Path, is_wanted: Callable[[], bool]) -> tuple[int, str]:
        begun.release()
        goes_on.wait(60)
        return digest_file(path)

    monkeypatch.setattr("broker.transfer.sending.digest_file", slow)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    (guest.area / "large").write_bytes(b"large")
    for _ in range(LIMITS.at_work):
        assert guest.files.on_opening(CONSOLE, FileGet(file=GuestFile(path="large")))
    try:
        await until(lambda: begun.acquire(blocking=False))

        async with asyncio.timeout(30):
            await asyncio.to_thread(lambda: None)
    finally:
        goes_on.set()
        await guest.files.close()


async def test_transfers_on_a_slow_disk_hold_up_nothing_else() -> None:
    begun, goes_on = threading.Semaphore(0), threading.Event()

    def slow() -> None:
        begun.release()
        goes_on.wait(60)

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    at_work = [asyncio.ensure_future(in_thread(slow)) for _ in range(4)]
    try:
        await until(lambda: begun.acquire(blocking=False))

        async with asyncio.timeout(30):
            await asyncio.to_thread(lambda: None)
    finally:
        goes_on.set()
        await asyncio.gather(*at_work)


async def test_a_pull_of_what_has_no_end_is_refused_at_once(guest: Guest) -> None:
    os.mkfifo(guest.area / "fifo")
    get = FileGet(file=GuestFile(path="fifo"))

    guest.files.on_opening(CONSOLE, get)
    await until(lambda: guest.said(FileAbort))

    (word,) = guest.said(FileAbort)
    assert "not a regular file" in word.message  # type: ignore[attr-defined]
    await guest.files.close()


async def test_a_digest_that_nobody_waits_for_any_more_gives_its_thread_back(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with ThreadPoolExecutor(1) as threads:
        reading = asyncio.ensure_future(read_digest(tmp_path / "sparse", threads))
        await until(lambda: threads._threads)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

        async with asyncio.timeout(60):
            await asyncio.get_running_loop().run_in_executor(threads, lambda: None)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_file_to_send(path: str) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        digest_file(Path(path))


def test_a_growing_file_is_taken_as_long_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    stat = os.fstat

    def then_grow(descriptor: int) -> os.stat_result:
        found = stat(descriptor)
        with path.open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(os, "fstat", then_grow)

    size, sha256 = digest_file(path)

    assert sha256 == hashlib.sha256(path.read_bytes()[:size]).hexdigest()


async def test_the_ninth_pull_waits_and_hears_so_and_dead_consoles_give_its_place(guest: Guest) -> None:
    """Eight whose consoles were gone once blocked a VM's files for minutes, and the ninth was dropped in silence."""
    (guest.area / "f").write_bytes(b"content")
    gets = [FileGet(file=GuestFile(path="f"), reply=f"r{number}") for number in range(9)]

    for get in gets:
        assert guest.files.on_opening(CONSOLE, get)
    await until(lambda: len(guest.said(FileOffer)) == LIMITS.at_work)
    guest.files.on_opening(CONSOLE, gets[8])
    assert [word.transfer for word in guest.said(FileWait)] == [gets[8].id]  # type: ignore[attr-defined]

    abort = FileAbort(transfer=gets[0].id, code=ErrorCode.INTERRUPTED, message="nobody waits for it")
    guest.transfers.on_message(CONSOLE, abort)
    await until(lambda: gets[8].id in {offer.id for offer in guest.said(FileOffer)})
    await guest.files.close()


async def test_who_waited_and_has_stopped_asking_is_not_begun() -> None:
    now = [0.0]
    transfers = Transfers(MemoryCarrier("vm-a"))
    limits = TransferLimits(at_work=1, at_work_of_one=1, at_work_of_kin=1, known=9, known_of_one=9, known_of_kin=9)
    queue = TransferQueue(transfers, limits, clock=lambda: now[0])
    begun: list[str] = []
    first_ended = asyncio.Event()

    async def work(name: str) -> None:
        begun.append(name)
        await first_ended.wait()

    gone, here = FileGet(file=GuestFile(path="gone")), FileGet(file=GuestFile(path="here"))
    queue.open("console-a", FileGet(file=GuestFile(path="x")), lambda: work("x"))
    queue.open("console-a", gone, lambda: work("gone"))
    queue.open("console-a", here, lambda: work("here"))
    await until(lambda: begun)
    now[0] = ASKER_GONE_S + 1
    queue.open("console-a", here, lambda: work("here, twice"))
    first_ended.set()
    await until(lambda: not queue.known)

    assert begun == ["x", "here"]


async def test_leftovers_of_pushes_that_broke_off_go_when_they_are_old(guest: Guest) -> None:
    guest.partials.mkdir()
    for name in ("old.part", "old.mark", "new.part"):
        (guest.partials / name).touch()
    os.utime(guest.partials / "old.part", (0, 0))

    sweeping = asyncio.ensure_future(guest.files.sweep())
    await until(lambda: not (guest.partials / "old.part").exists())

    assert [path.name for path in guest.partials.iterdir()] == ["new.part"]
    sweeping.cancel()
