"""Files over slow lines: both ends as they are, a line that takes its bytes one after the other, and a clock that skips
to the next thing that happens, so that an hour of it takes a moment."""

from __future__ import annotations

import asyncio
import hashlib
import os
import selectors
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, TypeVarTuple

import pytest

from broker.errors import TransferFailed
from broker.memory import MemoryCarrier
from broker.transfer import Transfers, into_file
from broker.transfer.core import WINDOW_BYTES, Inbound, Outbound, PeerPatience
from broker.transfer.peer import ANY_ADAPTER
from broker.transfer.receiving import LONGEST_ASKING_STALL, STALL_S, WINDOW_S, Receiving
from broker.transfer.scheduler import ASKER_GONE_S
from broker.transfer.sending import LONGEST_SILENCE, SILENCE_S, FileSource, Sending
from schemas.envelope import Message
from schemas.files import (
    FileAbort,
    FileChunk,
    FileDone,
    FileGet,
    FileOffer,
    FileWait,
    FileWindow,
    GuestFile,
    InputFile,
)

MIB = 1 << 20
#: How long a word takes back to the sender, seconds.
BACK_S = 0.05


T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Skipping(selectors.SelectSelector):
    """Waits for nothing: what it is told to wait is added to ``now_s``."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "nothing will ever happen"
            self.now_s += max(0.0, timeout)
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.skipping = _Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        return self.skipping.now_s

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Do it at once: threads do not wait for this clock."""

        async def at_once() -> T:
            return func(*args)

        return self.create_task(at_once())


class Line:
    """Takes so many bytes a second, each after those before it."""

    def __init__(self, rate: float) -> None:
        self.rate, self.free_s = rate, 0.0

    def put(self, size: int, arrive: Callable[[], None]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self.free_s = max(self.free_s, loop.time()) + size / self.rate
        confirm: asyncio.Future[None] = loop.create_future()

        def come() -> None:
            confirm.set_result(None)
            arrive()

        loop.call_at(self.free_s, come)
        return confirm


class Pair:
    """A sender and a receiver, with the line between them."""

    def __init__(self, directory: Path, line: Line, size: int, number: int = 0) -> None:
        self.data, self.line, self.source = os.urandom(size), line, directory / f"source-{number}"
        self.target = directory / f"target-{number}"
        self.source.write_bytes(self.data)
        sha256 = hashlib.sha256(self.data).hexdigest()
        self.offer = FileOffer(id=f"t{number}", file=GuestFile(path="x"), size=size, sha256=sha256)
        self.word: asyncio.Future[None] | None = None
        self.offers = 0
        self.came = asyncio.Event()
        self.sending = Sending(self.offer, FileSource(self.source), self._up, self._say, is_heard=self._is_heard)
        self.receiving = Receiving(
            self.offer, into_file(self.target, directory / f"{number}.part"), self._back, window_s=WINDOW_S
        )

    async def run(self) -> None:
        sending = asyncio.ensure_future(self.sending.run())
        try:
            await self.came.wait()
            await self.receiving.run()
            await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def _is_heard(self) -> bool:
        return self.word is None or self.word.done()

    def _up(self, chunk: FileChunk) -> asyncio.Future[None]:
        self.word = self.line.put(len(chunk.data), lambda: self.arrive(chunk))
        return self.word

    def arrive(self, chunk: FileChunk) -> None:
        self.receiving.on_chunk(chunk)

    def _offered(self) -> None:
        if self.came.is_set():
            self.receiving.again()
        self.came.set()

    def _say(self, message: Message) -> None:
        if isinstance(message, FileOffer) and self._is_heard():
            self.offers += 1
            self.word = self.line.put(300, self._offered)

    def _back(self, message: Message) -> None:
        ends: dict[type[Message], Callable[[Any], None]] = {
            FileWindow: self.sending.on_window,
            FileDone: lambda _: self.sending.on_done(),
            FileWait: lambda _: self.sending.on_wait(),
            FileAbort: self.sending.on_abort,
        }
        asyncio.get_running_loop().call_later(BACK_S, ends[type(message)], message)


@pytest.fixture
def skip(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Awaitable[None]]], float]:
    """Run something by the clock that skips; gives the seconds that it took by that."""

    def run(work: Callable[[], Awaitable[None]]) -> float:
        async def main() -> float:
            loop = asyncio.get_running_loop()
            clock = SimpleNamespace(monotonic=loop.time, time=loop.time)
            monkeypatch.setattr("broker.transfer.receiving.time", clock)
            monkeypatch.setattr("broker.transfer.sending.time", clock)
            begun_s = loop.time()
            await work()
            return loop.time() - begun_s

        with asyncio.Runner(loop_factory=_Loop) as runner:
            return runner.run(main())

    return run


@pytest.mark.parametrize(
    ("count", "rate", "size"),
    [(1, 10_000, 2 * MIB), (1, 80_000, 6 * MIB), (4, 500_000, 8 * MIB), (8, 1_000_000, 8 * MIB), (1, 10_000, 100_000)],
)
def test_a_slow_line_delivers_and_sends_little_twice(
    tmp_path: Path, skip: Callable[[Callable[[], Awaitable[None]]], float], count: int, rate: int, size: int
) -> None:
    """At 10 or 80 kB/s a file once never came: after 3 s of silence all that was in the line was of no use."""
    pairs: list[Pair] = []

    async def work() -> None:
        line = Line(rate)
        pairs.extend(Pair(tmp_path, line, size, number) for number in range(count))
        await asyncio.gather(*(pair.run() for pair in pairs))

    took_s = skip(work)

    assert all(pair.target.read_bytes() == pair.data for pair in pairs)
    sent = sum(pair.sending.sent_bytes for pair in pairs)
    assert sent <= 2 * count * size
    assert took_s <= 2 * count * size / rate + 10
    assert [pair.offers for pair in pairs] == [1] * count, "an offer more would lie behind what is in the line"


def test_what_a_line_loses_is_sent_again_and_the_window_grows_as_before(
    tmp_path: Path, skip: Callable[[Callable[[], Awaitable[None]]], float]
) -> None:
    pair = Pair(tmp_path, Line(10 * MIB), 64 * MIB)
    chunks, arrive = 0, pair.receiving.on_chunk

    def lose_some(chunk: FileChunk) -> bool:
        nonlocal chunks
        chunks += 1
        return not 4 <= chunks < 8 and arrive(chunk)

    pair.receiving.on_chunk = lose_some  # type: ignore[method-assign]
    took_s = skip(pair.run)

    assert pair.target.read_bytes() == pair.data
    assert pair.receiving._core.window == WINDOW_BYTES
    assert took_s < 6.4 + STALL_S + 6


def test_a_silent_sender_is_given_up_after_two_minutes_and_asked_ever_less(
    tmp_path: Path, skip: Callable[[Callable[[], Awaitable[None]]], float]
) -> None:
    told: list[Message] = []
    offer = FileOffer(id="t", file=GuestFile(path="x"), size=9, sha256="0" * 64)
    receiving = Receiving(offer, into_file(tmp_path / "t", tmp_path / "part"), told.append)

    async def wait() -> None:
        with pytest.raises(TransferFailed, match="silent for"):
            await receiving.run()

    took_s = skip(wait)

    assert 120 <= took_s <= 180
    assert len(told) <= 7


def test_what_comes_too_late_is_a_sign_of_life_as_far_as_it_was_granted() -> None:
    receiver, sender = Inbound(transfer="t", size=4 * MIB), Outbound(transfer="t", size=4 * MIB)
    sender.on_window(receiver.begin(0, 1))
    chunks = [sender.render(offset, bytes(length)) for offset, length in iter(sender.piece, None)]
    sender.on_window(receiver.begin(0, 2))
    assert [receiver.take(chunk) for chunk in chunks] == [True] * 4, "it is what is wanted next"

    assert [receiver.take(chunk) for chunk in chunks] == [False] * 4
    assert [receiver.is_late(chunk) for chunk in chunks] == [True] * 4
    assert receiver.late == MIB
    assert not receiver.is_late(chunks[0]), "no more was granted"


def test_a_grant_has_the_sender_leave_out_what_came_late() -> None:
    receiver, sender = Inbound(transfer="t", size=64, window=32), Outbound(transfer="t", size=64, chunk=16)
    sender.on_window(receiver.begin(0, 1))
    late = [sender.render(offset, bytes(length)) for offset, length in iter(sender.piece, None)]
    receiver.window = 16
    sender.on_window(receiver.begin(0, 2))
    assert sender.piece() == (0, 16)

    assert all(receiver.take(chunk) for chunk in late)
    sender.on_window(receiver.grant())

    assert sender.piece() == (32, 16)


async def _fetch(transfers: Transfers, get: FileGet, directory: Path) -> None:
    await transfers.fetch_file(get, into_file(directory / "t", directory / "p"), ANY_ADAPTER)


def test_who_asks_and_is_not_answered_asks_less_until_it_hears_to_wait(
    tmp_path: Path, skip: Callable[[Callable[[], Awaitable[None]]], float]
) -> None:
    asked: list[float] = []

    async def work() -> None:
        loop, get, wire = asyncio.get_running_loop(), FileGet(file=InputFile(sha256="1" * 64)), MemoryCarrier("vm-a")
        transfers, send = Transfers(wire), wire.send
        begun_s = loop.time()

        def note(*args: Any, **options: Any) -> asyncio.Future[None]:
            asked.append(round(loop.time() - begun_s))
            if len(asked) in (5, 6):
                loop.call_later(1, transfers.on_message, "adapter-store-1", FileWait(transfer=get.id))
            return send(*args, **options)

        wire.send = note  # type: ignore[method-assign]
        fetching = asyncio.ensure_future(_fetch(transfers, get, tmp_path))
        await asyncio.sleep(80)
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)

    skip(work)

    assert asked[:8] == [0, 4, 12, 27, 42, 57, 61, 65]


def test_who_offers_and_is_not_answered_offers_less_for_five_minutes(
    tmp_path: Path, skip: Callable[[Callable[[], Awaitable[None]]], float]
) -> None:
    """Every 4 s, for hours of an outage, of each output: all of them lay in the queue in the end."""
    told: list[Message] = []
    (tmp_path / "source").write_bytes(b"content")
    offer = FileOffer(id="t", file=GuestFile(path="x"), size=7, sha256="0" * 64)

    async def work() -> None:
        sending = Sending(offer, FileSource(tmp_path / "source"), lambda _: asyncio.Future(), told.append)
        with pytest.raises(TransferFailed, match="the receiver is silent"):
            await sending.run()

    took_s = skip(work)

    assert 290 <= took_s <= 310
    assert len(told) <= 22


def test_who_asks_less_and_less_is_still_seen_to_ask() -> None:
    assert SILENCE_S * LONGEST_SILENCE < ASKER_GONE_S
    assert STALL_S * LONGEST_ASKING_STALL < ASKER_GONE_S
    patience = PeerPatience(first_s=SILENCE_S, most_times=LONGEST_SILENCE)
    waits = []
    for _ in range(4):
        waits.append(patience.wait_s)
        patience.lose()

    assert waits == [4, 8, 15, 15]
