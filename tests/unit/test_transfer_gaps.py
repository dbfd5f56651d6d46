"""What a receiver has already is passed over: everything else arrives once, over any wire, whatever lies between."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.transfer.core import Inbound, Outbound
from broker.transfer.gaps import Gaps
from schemas.codec import decode, encode
from schemas.files import MAX_GAPS, FileChunk, FileWindow

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=12)


def laid_out(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Make spans of distances and lengths."""
    spans, at = [], 0
    for distance, length in steps:
        spans.append((at + distance, at + distance + length))
        at += distance + length
    return spans


@given(SPANS, st.integers(0, 600), st.integers(0, 600))
def test_gaps_are_what_a_set_of_offsets_says(steps: list[tuple[int, int]], start: int, count: int) -> None:
    gaps = Gaps(laid_out(steps))
    passed = {offset for span in laid_out(steps) for offset in range(*span)}
    wanted = [offset for offset in range(start, start + count + 600) if offset not in passed]

    assert gaps.length == len(passed)
    assert gaps.skip(start) == wanted[0]
    assert gaps.between(start, start + count) == len(passed & set(range(start, start + count)))
    reached = gaps.reach(wanted[0], count)
    assert [offset for offset in range(wanted[0], reached) if offset not in passed] == wanted[:count]


def test_spans_that_do_not_ascend_are_left_out() -> None:
    gaps = Gaps([(10, 20), (5, 30), (20, 20), (20, 25), (40, 30), (50, 60)])

    assert gaps.inside(0, 100) == ((10, 25), (50, 60))


def test_a_window_over_many_small_pieces_names_no_more_spans_than_a_message_takes() -> None:
    receiver = Inbound(transfer="t", size=20_000)
    receiver.pass_over(Gaps((offset, offset + 1) for offset in range(1, 20_000, 2)), 20_000)

    window = receiver.begin(0, 1)

    assert len(window.gaps) == MAX_GAPS
    assert decode(encode(window)) == window


class Wire:
    """Both ends, and what is on its way: it loses, repeats, and has the receiver replaced by one that has more."""

    def __init__(self, data: bytes, spans: list[tuple[int, int]], loss: float, seed: int) -> None:
        self.data, self.loss, self.random = data, loss, random.Random(seed)
        self.has = {offset for span in spans for offset in range(*span) if offset < len(data)}
        self.came: dict[int, int] = {}
        self.sender = Outbound(transfer="t", size=len(data), chunk=16)
        self.chunks: deque[FileChunk] = deque()
        self.windows: deque[FileWindow] = deque()
        self.clock = 0
        self.replace()

    def replace(self) -> None:
        self.clock += 1
        self.receiver = Inbound(transfer="t", size=len(self.data), window=64)
        spans = [(offset, offset + 1) for offset in sorted(self.has | self.came.keys())]
        self.receiver.pass_over(Gaps(spans), len(self.data))
        self.windows.append(self.receiver.begin(0, self.clock))

    def step(self) -> None:
        self.clock += 1
        if self.windows and (self.random.random() < 0.5 or not self.chunks):
            self.sender.on_window(self.windows.popleft())
            while (piece := self.sender.piece()) is not None:
                data = self.data[piece[0] : piece[0] + piece[1]]
                self.chunks.append(self.sender.render(piece[0], data))
        elif self.chunks:
            self.on_chunk(self.chunks.popleft())
        elif self.random.random() < 0.2:
            self.replace()
        else:
            self.windows.append(self.receiver.begin(self.receiver.taken, self.clock))

    def on_chunk(self, chunk: FileChunk) -> None:
        if self.random.random() < self.loss:
            return
        if self.receiver.take(chunk):
            for at, byte in enumerate(chunk.data, start=chunk.offset):
                assert at not in self.has
                assert at not in self.came
                self.came[at] = byte
            if self.receiver.wants_grant():
                self.windows.append(self.receiver.grant())
        elif self.receiver.is_broken_by(chunk):
            self.windows.append(self.receiver.begin(self.receiver.taken, self.clock))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=500), SPANS, st.sampled_from([0.0, 0.2]), st.integers(0, 1 << 30))
def test_what_is_not_there_arrives_once_over_any_wire(
    data: bytes, steps: list[tuple[int, int]], loss: float, seed: int
) -> None:
    wire = Wire(data, laid_out(steps), loss, seed)

    for _ in range(20_000):
        if wire.receiver.is_whole:
            break
        wire.step()

    assert wire.receiver.is_whole
    assert wire.came == {at: byte for at, byte in enumerate(data) if at not in wire.has}
    if not loss:
        assert wire.sender.sent == len(wire.came)


def test_nothing_beyond_the_bound_is_granted_until_it_is_moved() -> None:
    receiver, sender = Inbound(transfer="t", size=100), Outbound(transfer="t", size=100, chunk=16)
    receiver.pass_over(Gaps(), 10)
    sender.on_window(receiver.begin(0, 1))

    assert sender.piece() == (0, 10)
    assert receiver.take(sender.render(0, bytes(10)))
    assert not receiver.wants_grant()
    assert sender.piece() is None

    receiver.pass_over(Gaps([(10, 90)]), 100)
    sender.on_window(receiver.begin(10, 2))

    assert sender.piece() == (90, 10)
