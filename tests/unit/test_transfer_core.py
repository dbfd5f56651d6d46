"""Both ends of a transfer over a wire that drops, repeats and reorders: the file arrives, no byte is taken twice."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import TransferFailed
from broker.transfer import Transfers, into_file
from broker.transfer.core import LARGE_WITHIN_S, WINDOW_BYTES, Inbound, Outbound, Pace
from broker.transfer.peer import ANY_ADAPTER
from broker.transfer.receiving import Receiving
from broker.transfer.sending import FileSource, Sending
from schemas.codec import decode
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import MAX_WINDOW_BYTES, FileAbort, FileChunk, FileGet, FileOffer, FileWindow, InputFile
from tests.broker.polling import until


class MemoryCarrier:
    """Two ends and what is on its way between them; ``step`` moves one message, or lets a silence be noticed."""

    def __init__(self, data: bytes, loss: float, seed: int) -> None:
        self.data, self.loss, self.random = data, loss, random.Random(seed)
        self.receiver = Inbound(transfer="t", size=len(data), window=64)
        self.sender = Outbound(transfer="t", size=len(data), chunk=16)
        self.chunks: deque[FileChunk] = deque()
        self.windows: deque[FileWindow] = deque([self.receiver.begin(0, 1)])
        self.taken = bytearray()
        self.steps = 0

    def run(self) -> None:
        while not self.receiver.is_whole and self.steps < 20_000:
            self.steps += 1
            self.step()

    def step(self) -> None:
        if self.windows and (self.random.random() < 0.5 or not self.chunks):
            self.on_window(self.windows.popleft())
        elif self.chunks:
            self.on_chunk(self.chunks.popleft())
        else:
            self.windows.append(self.receiver.begin(self.receiver.taken, self.steps))

    def on_window(self, window: FileWindow) -> None:
        if self.random.random() < self.loss:
            return
        self.sender.on_window(window)
        while (piece := self.sender.piece()) is not None:
            offset, length = piece
            self.chunks.append(self.sender.render(offset, self.data[offset : offset + length]))

    def on_chunk(self, chunk: FileChunk) -> None:
        if self.random.random() < self.loss:
            return
        if self.random.random() < self.loss:
            self.chunks.append(chunk)
        if self.receiver.take(chunk):
            self.taken += chunk.data
            if self.receiver.wants_grant():
                self.windows.append(self.receiver.grant())
        elif self.receiver.is_broken_by(chunk):
            self.windows.append(self.receiver.begin(self.receiver.taken, self.steps))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600), st.sampled_from([0.0, 0.1, 0.4]), st.integers(0, 1 << 30))
def test_a_file_arrives_whole_over_any_wire(data: bytes, loss: float, seed: int) -> None:
    wire = MemoryCarrier(data, loss, seed)

    wire.run()

    assert bytes(wire.taken) == data


def test_without_loss_every_byte_is_sent_once() -> None:
    wire = MemoryCarrier(bytes(1000), 0.0, 1)

    wire.run()

    assert wire.sender.sent == 1000


def test_a_chunk_of_an_older_epoch_breaks_nothing_and_is_taken_only_as_the_next_piece() -> None:
    receiver = Inbound(transfer="t", size=32)
    sender = Outbound(transfer="t", size=32, chunk=16)
    sender.on_window(receiver.begin(0, 1))
    old = [sender.render(offset, bytes(16)) for offset in (16, 0)]
    receiver.begin(0, 2)

    assert [receiver.take(chunk) for chunk in (*old, old[1])] == [False, True, False]
    assert not any(receiver.is_broken_by(chunk) for chunk in old)
    assert (receiver.taken, receiver.dropped) == (16, 2)


def test_a_chunk_with_a_wrong_crc_breaks_the_run() -> None:
    receiver = Inbound(transfer="t", size=4)
    window = receiver.begin(0, 1)
    chunk = FileChunk(transfer="t", epoch=window.epoch, offset=0, crc32=1, data=b"test")

    assert not receiver.take(chunk)
    assert receiver.is_broken_by(chunk)


def test_what_exceeds_the_window_is_not_taken() -> None:
    receiver = Inbound(transfer="t", size=1000, window=64)
    window = receiver.begin(0, 1)
    sender = Outbound(transfer="t", size=1000)
    sender.on_window(window)

    assert not receiver.take(sender.render(0, bytes(65)))
    assert receiver.take(sender.render(0, bytes(64)))


def test_a_receiver_that_grants_a_whole_file_is_sent_a_window_of_it() -> None:
    size = 1 << 50
    sender = Outbound(transfer="t", size=size)
    gaps = ((0, 1 << 20), (2 << 20, 3 << 20))
    sender.on_window(FileWindow(transfer="t", epoch=1, offset=0, limit=size, gaps=gaps))
    first = sum(length for _, length in iter(sender.piece, None))
    sender.on_window(FileWindow(transfer="t", epoch=1, offset=sender.next, limit=size))
    second = sum(length for _, length in iter(sender.piece, None))

    assert first == second == MAX_WINDOW_BYTES


async def test_a_receiver_that_grants_without_end_has_no_more_in_memory_than_the_broker_takes(tmp_path: Path) -> None:
    """He says that he has what was just sent, again and again; the broker has confirmed none of it."""
    source = tmp_path / "source"
    size = 64 * WINDOW_BYTES
    with source.open("wb") as file:
        file.truncate(size)
    offer = FileOffer(id="t", file=InputFile(sha256="0" * 64), size=size, sha256="0" * 64)
    sent: list[tuple[FileChunk, asyncio.Future[None]]] = []

    def send(chunk: FileChunk) -> asyncio.Future[None]:
        sent.append((chunk, asyncio.get_running_loop().create_future()))
        sending.on_window(FileWindow(transfer="t", epoch=1, offset=chunk.offset + len(chunk.data), limit=size))
        return sent[-1][1]

    sending = Sending(offer, FileSource(source), send, lambda _: None)
    running = asyncio.ensure_future(sending.run())
    sending.on_window(FileWindow(transfer="t", epoch=1, offset=0, limit=size))
    await until(lambda: sum(len(chunk.data) for chunk, _ in sent) > MAX_WINDOW_BYTES, 20)
    held = len(sent)
    for _, confirm in sent:
        confirm.set_result(None)
    await until(lambda: len(sent) > held, 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert held * len(sent[0][0].data) <= 2 * MAX_WINDOW_BYTES + WINDOW_BYTES


def test_a_window_is_large_only_where_the_line_is_fast() -> None:
    receiver = Inbound(transfer="t", size=1 << 40)
    receiver.begin(0, 0)
    now_s, windows = 0.0, []
    for took_s in (0.3, LARGE_WITHIN_S / 2, LARGE_WITHIN_S / 2, LARGE_WITHIN_S / 2, 0.3, 0.3):
        receiver.received += receiver.window
        now_s += took_s
        receiver.grow(now_s)
        windows.append(receiver.window // WINDOW_BYTES)

    assert windows == [1, 2, 4, 4, 1, 1]
    receiver.window, receiver.window_since_s = MAX_WINDOW_BYTES, now_s
    receiver.received += MAX_WINDOW_BYTES
    receiver.grow(now_s, may_be_large=False)
    assert receiver.window == WINDOW_BYTES, "others send too"


def test_a_receiver_that_takes_over_has_the_later_epoch() -> None:
    first, second = Inbound(transfer="t", size=4), Inbound(transfer="t", size=4)
    sender = Outbound(transfer="t", size=4)
    sender.on_window(first.begin(0, 1_000))

    sender.on_window(second.begin(0, 2_000))

    assert sender.epoch == second.epoch


class Lone:
    """A receiver and what it told to a sender that says nothing."""

    def __init__(self, directory: Path, **options: Any) -> None:
        data = bytes(range(256))
        self.offer = FileOffer(
            id="t1", file=InputFile(sha256="0" * 64), size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        self.data, self.target, self.partial = data, directory / "target", directory / "part"
        self.told: list[Message] = []
        self.receiving = Receiving(
            self.offer, into_file(self.target, self.partial), self.told.append, stall_s=0.05, **options
        )

    def chunk(self, offset: int, length: int) -> FileChunk:
        sender = Outbound(transfer="t1", size=len(self.data))
        sender.on_window([m for m in self.told if isinstance(m, FileWindow)][-1])
        return sender.render(offset, self.data[offset : offset + length])


async def test_a_receiver_that_only_waits_gives_up_and_keeps_what_came(tmp_path: Path) -> None:
    lone = Lone(tmp_path, most_stalls=3)

    with pytest.raises(TransferFailed) as caught:
        await asyncio.wait_for(lone.receiving.run(), 5)

    assert caught.value.code == ErrorCode.TIMEOUT
    assert lone.partial.exists()
    assert not [m for m in lone.told if isinstance(m, FileAbort)]


async def test_a_sender_that_speaks_now_and_then_is_not_given_up(tmp_path: Path) -> None:
    lone = Lone(tmp_path, most_stalls=3)
    parts = iter(range(0, 256, 64))

    def tell(message: Message) -> None:
        """Speak each time that the receiver asks after a silence, as late as one may, however slow the machine."""
        lone.told.append(message)
        if lone.receiving.is_stalled and isinstance(message, FileWindow):
            asyncio.get_running_loop().call_soon(lambda: lone.receiving.on_chunk(lone.chunk(next(parts), 64)))

    lone.receiving = Receiving(lone.offer, into_file(lone.target, lone.partial), tell, stall_s=0.05, most_stalls=3)
    await asyncio.wait_for(lone.receiving.run(), 60)

    assert lone.target.read_bytes() == lone.data
    assert next(parts, None) is None


async def test_a_receiver_that_asks_again_does_so_for_ever_even_if_a_sender_was_stopped(tmp_path: Path) -> None:
    asked: list[int] = []
    lone = Lone(tmp_path, most_stalls=None, again=lambda: asked.append(1))
    running = asyncio.ensure_future(lone.receiving.run())
    lone.receiving.on_abort(FileAbort(transfer="t1", code=ErrorCode.INTERRUPTED, message="stopped"))

    await until(lambda: len(asked) > 10, 20)

    assert not running.done()
    lone.receiving.on_chunk(lone.chunk(0, 256))
    await asyncio.wait_for(running, 5)


async def test_a_cancelled_sender_tells_the_receiver(tmp_path: Path) -> None:
    lone = Lone(tmp_path)
    (tmp_path / "source").write_bytes(lone.data)
    told: list[Message] = []
    sending = Sending(lone.offer, FileSource(tmp_path / "source"), lambda _: asyncio.Future(), told.append)
    running = asyncio.ensure_future(sending.run())
    await asyncio.sleep(0.1)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert running.cancelled()
    assert [m.code for m in told if isinstance(m, FileAbort)] == [ErrorCode.INTERRUPTED]


async def test_an_input_that_is_not_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    class Deaf:
        user = "vm-a"

        def __init__(self) -> None:
            self.on_up: list[object] = []
            self.sent: list[Message] = []

        def send(self, _exchange: str, _key: str, body: bytes, **_: Any) -> None:
            self.sent.append(decode(body))

    connection = Deaf()
    transfers = Transfers(connection)  # type: ignore[arg-type]
    get = FileGet(file=InputFile(sha256="1" * 64))
    fetching = asyncio.ensure_future(transfers.fetch_file(get, into_file(tmp_path / "t", tmp_path / "p"), ANY_ADAPTER))
    await asyncio.sleep(0)
    empty = hashlib.sha256(b"").hexdigest()
    transfers.on_message("adapter-store-1", FileOffer(id=get.id, file=get.file, size=0, sha256=empty))

    with pytest.raises(TransferFailed) as caught:
        await asyncio.wait_for(fetching, 5)

    assert caught.value.code == ErrorCode.CONFLICT
    assert [m.code for m in connection.sent if isinstance(m, FileAbort)] == [ErrorCode.CONFLICT]
    assert not transfers.is_open(get.id)
    assert not (tmp_path / "t").exists()


def test_a_pace_is_a_window_in_its_time_or_what_is_left() -> None:
    pace = Pace(size=3 * WINDOW_BYTES + 5, window_s=60, since_s=0)

    assert pace.is_kept(WINDOW_BYTES, 59)
    assert pace.is_kept(2 * WINDOW_BYTES - 1, 118)
    assert not pace.is_kept(2 * WINDOW_BYTES - 1, 120)
    assert pace.is_kept(3 * WINDOW_BYTES, 500)
    assert pace.is_kept(3 * WINDOW_BYTES + 5, 9999), "all that was left"


async def test_a_byte_now_and_then_does_not_hold_a_receivers_place(tmp_path: Path) -> None:
    """One byte every 29 s once held one of 32 places for ever."""
    lone = Lone(tmp_path, most_stalls=100, window_s=0.3)
    running = asyncio.ensure_future(lone.receiving.run())
    await until(lambda: lone.told)

    async def trickle() -> None:
        for offset in range(255):
            lone.receiving.on_chunk(lone.chunk(offset, 1))
            await asyncio.sleep(0.03)

    dripping = asyncio.ensure_future(trickle())
    with pytest.raises(TransferFailed, match=r"has not sent a window in 0 s") as caught:
        await asyncio.wait_for(running, 20)
    dripping.cancel()

    assert caught.value.code == ErrorCode.TIMEOUT
    assert not [m for m in lone.told if isinstance(m, FileAbort)], "it may go on, after the others"
    came = lone.partial.stat().st_size
    assert int(lone.partial.with_suffix(".mark").read_text()) == came > 0, "and goes on where it got to"


async def test_a_receiver_that_only_speaks_does_not_hold_a_senders_place(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1000))
    offer = FileOffer(id="t1", file=InputFile(sha256="0" * 64), size=1000, sha256="0" * 64)
    sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sending = Sending(offer, FileSource(source), lambda _: sent, lambda _: None, silence_s=0.05, window_s=0.3)
    running = asyncio.ensure_future(sending.run())

    async def talk() -> None:
        for epoch in range(1000):
            sending.on_window(FileWindow(transfer="t1", epoch=epoch, offset=0, limit=1))
            await asyncio.sleep(0.03)

    talking = asyncio.ensure_future(talk())
    with pytest.raises(TransferFailed, match="no window of it in 0 s"):
        await asyncio.wait_for(running, 20)
    talking.cancel()


async def test_a_slow_receiver_that_has_all_is_given_its_time_to_keep_it_and_no_more(tmp_path: Path) -> None:
    pace = Pace(size=1001, window_s=60, since_s=0)

    assert pace.is_kept(1000, 59)
    assert not pace.is_kept(1000, 61), "its word that all is there has not come"
    assert pace.is_kept(1001, 61)


async def test_while_the_broker_does_not_take_our_words_the_pace_is_not_the_senders(tmp_path: Path) -> None:
    heard = [False]
    lone = Lone(tmp_path, most_stalls=1000, window_s=0.2, is_heard=lambda: heard[0])
    running = asyncio.ensure_future(lone.receiving.run())

    await asyncio.sleep(0.6)
    assert not running.done()
    heard[0] = True

    with pytest.raises(TransferFailed, match="has not sent a window"):
        await asyncio.wait_for(running, 20)
