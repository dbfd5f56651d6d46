"""What a receiver says to have is on its disk: full disks, kernels that take parts, two receivers of one file."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable
from contextlib import nullcontext
from pathlib import Path

import pytest

from broker.errors import PartialTaken, RoomTaken, TransferFailed
from broker.transfer.core import Outbound
from broker.transfer.landing import FileLanding, Landing, into_file
from broker.transfer.leftovers import name_of_partial, remove_left_behind
from broker.transfer.receiving import Receiving
from guest_agent.streams import CappedFile
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileDone, FileOffer, FileWait, FileWindow, GuestFile
from tests.broker.polling import until
from tests.unit.disks import fill, grudge, small_disk

MIB = 1 << 20


class End:
    """A receiver and a sender that does all that it is granted."""

    def __init__(self, data: bytes, target: Path, partial: Path, transfer: str = "t1") -> None:
        self.data, self.target, self.partial = data, target, partial
        sha256 = hashlib.sha256(data).hexdigest()
        self.offer = FileOffer(id=transfer, file=GuestFile(path="x"), size=len(data), sha256=sha256)
        self.sender = Outbound(transfer=transfer, size=len(data))
        self.told: list[Message] = []
        self.landing: FileLanding | None = None
        self.receiving = Receiving(self.offer, lambda size: self.land(size), self.tell, stall_s=0.2, most_stalls=10)
        #: Bytes that the sender has; more are kept back.
        self.most = len(data)

    def land(self, size: int) -> Landing:
        self.landing = FileLanding(self.target, self.partial, size)
        return self.landing

    def durable(self) -> int:
        return self.landing.durable if self.landing is not None else 0

    def tell(self, message: Message) -> None:
        self.told.append(message)
        if isinstance(message, FileWindow):
            self.sender.on_window(message)
            asyncio.get_running_loop().call_soon(self.send)

    def send(self) -> None:
        while self.sender.next < self.most and (piece := self.sender.piece()) is not None:
            offset, length = piece
            self.receiving.on_chunk(self.sender.render(offset, self.data[offset : offset + length]))

    def run(self) -> Awaitable[object]:
        return asyncio.wait_for(self.receiving.run(), 30)

    def said(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.told if isinstance(message, kind)]


async def test_on_a_disk_that_fills_a_file_is_refused_with_its_path_and_never_done(tmp_path: Path) -> None:
    """620,000 bytes, of which 614,400 find room: those were once said to be all."""
    with small_disk(tmp_path / "disk", 2 * MIB) as disk:
        end = End(os.urandom(620_000), disk / "target", disk / "part")
        end.most = 262_144
        running = asyncio.ensure_future(end.run())
        await until(lambda: end.sender.next >= end.most)
        fill(disk, leaving=614_400 - 262_144)
        end.most = len(end.data)
        end.send()

        with pytest.raises(TransferFailed, match=r"cannot write .*/disk/part: No space left") as caught:
            await running

        assert caught.value.code is ErrorCode.STORE
        assert not end.said(FileDone)
        assert [message.code for message in end.said(FileAbort)] == [ErrorCode.STORE]  # type: ignore[attr-defined]
        assert [path.name for path in disk.iterdir()] == ["ballast"]


async def test_a_file_that_has_no_room_is_refused_before_its_first_byte(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MIB) as disk:
        end = End(os.urandom(2 * MIB), disk / "target", disk / "part")

        with pytest.raises(TransferFailed, match=r"no room for .*/part: 2097152 bytes are to come, \d+ are free"):
            await end.run()

        assert not end.said(FileWindow)
        assert list(disk.iterdir()) == []


async def test_a_kernel_that_takes_parts_gets_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = End(os.urandom(3 * MIB + 17), tmp_path / "target", tmp_path / "part")
    counts = grudge(monkeypatch)

    await end.run()

    assert end.target.read_bytes() == end.data
    assert max(counts) == 4096
    assert end.said(FileDone)


async def test_a_done_file_has_its_bytes_and_its_name_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    end = End(os.urandom(1000), tmp_path / "new" / "target", tmp_path / "part")

    await end.run()

    assert synced[-2:] == [str(tmp_path / "part"), str(tmp_path / "new")]
    assert str(tmp_path) in synced, "the name of the new directory"


async def test_zeros_become_holes(tmp_path: Path) -> None:
    """A file of 64 MiB that is nothing but a hole takes no room where it arrives, and is what was sent."""
    data = bytes(64 * MIB) + b"end"
    end = End(data, tmp_path / "target", tmp_path / "part")

    await end.run()

    assert end.target.read_bytes() == data
    assert end.target.stat().st_blocks * 512 < MIB


async def test_two_receivers_never_mix_their_bytes(tmp_path: Path) -> None:
    """The second was once let in, cut the file to the mark, and 200,000 zeros were reported done."""
    data = os.urandom(2 * MIB)
    first, second = (End(data, tmp_path / name, tmp_path / "part") for name in ("a", "b"))
    first.most = 1_600_000
    running = asyncio.ensure_future(first.run())
    await until(lambda: first.receiving._written >= 1_048_576)

    with pytest.raises(PartialTaken):
        await second.run()
    first.most = len(data)
    first.send()
    await running

    assert (tmp_path / "a").read_bytes() == data
    assert not (tmp_path / "b").exists()
    assert second.told == [], "the sender is told nothing: the first receiver has it in hand"


async def test_who_comes_after_a_killed_receiver_goes_on_from_its_mark(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    first, second = (End(data, tmp_path / "target", tmp_path / "part") for _ in range(2))
    first.most = 2 * MIB
    running = asyncio.ensure_future(first.run())
    await until(lambda: first.durable() >= 2 * MIB)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    await second.run()

    assert (tmp_path / "target").read_bytes() == data
    assert second.said(FileWindow)[0].offset == 2 * MIB  # type: ignore[attr-defined]


async def test_an_offer_that_comes_while_the_partial_file_is_read_again_is_answered_and_grants_nothing(
    tmp_path: Path,
) -> None:
    """A grant from the beginning then would have its bytes written behind those that are there."""
    end = End(os.urandom(1000), tmp_path / "target", tmp_path / "part")
    may_go = asyncio.Event()
    loop = asyncio.get_running_loop()
    opened = end.land

    def slowly(size: int) -> Landing:
        asyncio.run_coroutine_threadsafe(may_go.wait(), loop).result(30)
        return opened(size)

    end.land = slowly  # type: ignore[method-assign]
    running = asyncio.ensure_future(end.run())
    await asyncio.sleep(0)

    end.receiving.again()
    assert [type(message) for message in end.told] == [FileWait]

    may_go.set()
    await running
    assert end.target.read_bytes() == end.data


def test_a_partial_file_is_named_by_its_transfer_alone() -> None:
    offer = FileOffer(id="t1", file=GuestFile(path="x"), size=1, sha256="0" * 64)
    other_place = FileOffer(id="t2", file=GuestFile(path="y"), size=1, sha256="0" * 64)

    names = {name_of_partial(who, what) for who in ("console-a", "console-b") for what in (offer, other_place)}

    assert len(names) == 4
    assert name_of_partial("console-a", offer) == name_of_partial("console-a", offer)


def test_what_is_left_behind_goes_by_age_and_count_and_never_while_it_is_held(tmp_path: Path) -> None:
    held = FileLanding(tmp_path / "held", tmp_path / "held.part", 10)
    for number in range(5):
        (tmp_path / f"{number}.part").touch()
        (tmp_path / f"{number}.mark").touch()
        os.utime(tmp_path / f"{number}.part", (0, 1000 + number))
    os.utime(tmp_path / "held.part", (0, 0))
    (tmp_path / "orphan.mark").touch()
    os.utime(tmp_path / "orphan.mark", (0, 0))

    remove_left_behind(tmp_path.iterdir(), now_s=1010, keep_s=8, most=2)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.mark", "3.part", "4.mark", "4.part", "held.part"]
    held.close()
    remove_left_behind(tmp_path.iterdir(), now_s=1010, keep_s=8, most=2)
    assert not (tmp_path / "held.part").exists()


def test_a_stream_of_a_payload_on_a_disk_that_fills_says_how_much_was_cut(tmp_path: Path) -> None:
    """The kernel takes a part of the last write: what it left out must not vanish from the midst of the stream."""
    with small_disk(tmp_path / "disk", 2 * MIB) as disk:
        stream = CappedFile(disk, "stdout", limit=8 * MIB)
        stream.take(b"x" * MIB)
        fill(disk, leaving=16_384)
        piece = os.urandom(50_000)

        stream.take(piece)

        kept = (disk / "stdout").read_bytes()[MIB:]
        assert stream.cut_bytes == len(piece)
        assert piece.startswith(kept)
        stream.close()


async def test_a_sender_that_is_never_ready_is_given_up_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its word kept the receiver's place for ever, and 32 of them everybody's."""
    monkeypatch.setattr("broker.transfer.receiving.MOST_WAITS", 3)
    end = End(os.urandom(1000), tmp_path / "target", tmp_path / "part")
    end.most = 0
    running = asyncio.ensure_future(end.run())

    async with asyncio.timeout(30):
        while not running.done():
            end.receiving.on_wait()
            await asyncio.sleep(0.02)

    with pytest.raises(TransferFailed, match="the sender is silent"):
        await running


async def test_a_sender_that_has_begun_and_says_that_it_is_not_ready_is_silent(tmp_path: Path) -> None:
    end = End(os.urandom(300_000), tmp_path / "target", tmp_path / "part")
    end.most = 200_000
    running = asyncio.ensure_future(end.run())
    await until(lambda: end.sender.next >= end.most)

    async with asyncio.timeout(30):
        while not running.done():
            end.receiving.on_wait()
            await asyncio.sleep(0.02)

    with pytest.raises(TransferFailed, match="the sender is silent"):
        await running


@pytest.mark.parametrize(("kept", "words"), [(None, "no room for"), (0, "")])
def test_what_comes_to_a_daemon_leaves_a_reserve_and_what_comes_to_a_person_need_not(
    tmp_path: Path, kept: int | None, words: str
) -> None:
    """A person who has 400 MB left may pull one of them."""
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        fill(disk, leaving=MIB + MIB // 2)
        land = into_file(disk / "target", disk / "part", kept=kept)

        with pytest.raises(TransferFailed, match=words) if words else nullcontext():
            landing = land(MIB)
            assert landing.write([os.urandom(MIB)]) == MIB
            landing.close()


async def test_a_disk_that_others_fill_to_its_reserve_costs_no_byte_that_has_come(tmp_path: Path) -> None:
    """A file of 64 GiB that was nearly there was removed once, for what somebody else had written."""
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        data = os.urandom(3 * MIB)
        end, other = (End(data, disk / "target", disk / "part") for _ in range(2))
        end.most = 2 * MIB
        running = asyncio.ensure_future(end.run())
        await until(lambda: end.durable() >= end.most)
        fill(disk, leaving=MIB + MIB // 2)
        end.most = len(data)
        end.send()

        with pytest.raises(RoomTaken, match=r"no room for .*/part: .* stay free"):
            await running
        assert not end.said(FileAbort), "it offers again"
        with pytest.raises(RoomTaken, match="1048576 bytes are to come"):
            await other.run()
        assert [message.code for message in other.said(FileAbort)] == [ErrorCode.STORE]  # type: ignore[attr-defined]
        (disk / "ballast").unlink()
        last = End(data, disk / "target", disk / "part")
        await last.run()

        assert last.said(FileWindow)[0].offset >= 2 * MIB  # type: ignore[attr-defined]
        assert last.target.read_bytes() == data


def test_zeros_are_written_where_there_is_no_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        landing = FileLanding(disk / "target", disk / "part", 4 * MIB)
        fill(disk, leaving=MIB + MIB // 2)

        assert landing.write([bytes(4 * MIB)]) == 4 * MIB
        landing.close()
