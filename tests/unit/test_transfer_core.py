"""Both ends of a transfer over a wire that drops, repeats and reorders: the file arrives, no byte is taken twice."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.transfer.core import Inbound, Outbound
from schemas.files import FileChunk, FileWindow


class Wire:
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
    wire = Wire(data, loss, seed)

    wire.run()

    assert bytes(wire.taken) == data


def test_without_loss_every_byte_is_sent_once() -> None:
    wire = Wire(bytes(1000), 0.0, 1)

    wire.run()

    assert wire.sender.sent == 1000


def test_a_chunk_of_an_older_epoch_is_dropped() -> None:
    receiver = Inbound(transfer="t", size=32)
    sender = Outbound(transfer="t", size=32, chunk=16)
    sender.on_window(receiver.begin(0, 1))
    old = sender.render(0, bytes(16))
    receiver.begin(0, 2)

    assert not receiver.take(old)
    assert not receiver.is_broken_by(old)
    assert receiver.dropped == 1


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


def test_a_receiver_that_takes_over_has_the_later_epoch() -> None:
    first, second = Inbound(transfer="t", size=4), Inbound(transfer="t", size=4)
    sender = Outbound(transfer="t", size=4)
    sender.on_window(first.begin(0, 1_000))

    sender.on_window(second.begin(0, 2_000))

    assert sender.epoch == second.epoch
