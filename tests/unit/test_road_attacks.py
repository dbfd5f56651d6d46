"""What a guest may send its host by the local road: it is cut off and named within a second, and costs no memory."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from broker.errors import Disconnected
from broker.road import Road, wire
from broker.road.session import Session
from broker.road.slip import wrap
from broker.road.streams import Listener, to_socket
from broker.routes import UP
from schemas.road import Hello, encode_frame
from tests.broker.polling import until

VM, HOST = "vm-a-0123456789", "host-a"
#: What the host's end may hold of a stranger's at any time, bytes: what may be unsettled, and a frame under way.
MOST_HELD = 24 << 20


class Guest:
    """A guest without our code: it writes what it likes. Its host reads what is slow, and never settles it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "road.sock"
        self.listener = Listener(self.path)
        self.host = Road(to_socket(self.path), user=HOST, peer=VM, cut_off_s=3600)
        self.session = Session()

    async def meet(self) -> None:
        """Have both ends up."""
        self.host.start()
        self.stream = await self.listener.connect()
        self.stream.writer.write(self.session.open())
        while not self.session.is_up:
            for event in self.session.receive(await self.stream.reader.read(65536)):
                if isinstance(event, bytes):
                    self.stream.writer.write(event)
        await self.host.consume("quick", lambda delivery: delivery.ack(), bind_to=(UP, f"{VM}.quick"))
        await self.host.consume("slow", lambda delivery: None, bind_to=(UP, f"{VM}.slow"))

    async def send(self, pieces: Iterator[bytes]) -> None:
        """Write until the host hears no more."""
        try:
            for piece in pieces:
                self.stream.writer.write(piece)
                await self.stream.writer.drain()
        except ConnectionError:
            return


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Guest]:
    made = Guest(tmp_path)
    await made.meet()
    yield made
    made.stream.close()
    await made.host.close()
    await made.listener.close()


def garbage(_: Guest) -> Iterator[bytes]:
    for _ in range(3):
        yield wrap(b"no frame of ours")


def a_frame_of_two_gigabytes(_: Guest) -> Iterator[bytes]:
    for _number in range(2 << 10):
        yield b"x" * (1 << 20)


def more_than_it_may(guest: Guest) -> Iterator[bytes]:
    for _ in range(1000):
        yield guest.session.say(UP, f"{VM}.slow", "m", bytes(100_000))[1]


def messages_for_nobody(guest: Guest) -> Iterator[bytes]:
    for _ in range(10_000):
        yield guest.session.say(UP, f"{VM}.unread", "m", b"x")[1]


def what_is_answered_and_never_reads(guest: Guest) -> Iterator[bytes]:
    """Each message is settled at once, and the settlements are not read."""
    while True:
        yield b"".join(guest.session.say(UP, f"{VM}.quick", "m", b"x")[1] for _ in range(200))


def hellos_of_others(_: Guest) -> Iterator[bytes]:
    for number in range(10_000):
        yield wrap(encode_frame(Hello(session=str(number), most_messages=1, most_bytes=1)))


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (garbage, "garbage"),
        (a_frame_of_two_gigabytes, "a frame of more than"),
        (more_than_it_may, "a flood: more than"),
        (messages_for_nobody, "a flood: messages for nobody"),
        (hellos_of_others, "a flood of hellos"),
        (what_is_answered_and_never_reads, "it reads nothing"),
    ],
)
async def test_who_attacks_is_cut_off_and_named(
    guest: Guest,
    attack: Callable[[Guest], Iterator[bytes]],
    named: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "MOST_UNREAD_BYTES", 64 << 10)
    tracemalloc.start()
    began = time.monotonic()
    sending = asyncio.ensure_future(guest.send(attack(guest)))
    await until(lambda: guest.host.breaches == 1)
    took, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    async with asyncio.timeout(15):
        await sending

    assert not guest.host.is_up
    assert f"{VM} was cut off: {named}" in guest.host.trouble
    assert [record.__dict__["peer"] for record in caplog.records if record.message == "local road cut off"] == [VM]
    assert took < 5
    assert peak < MOST_HELD


async def test_who_takes_nothing_costs_the_host_what_was_said_and_no_more(guest: Guest) -> None:
    saying = [guest.host.send("vc.down", "vm.a", bytes(1 << 20), message_id="m") for _ in range(60)]
    for _ in range(20):
        await asyncio.sleep(0)
    stream = guest.host._wire._stream
    assert stream is not None

    assert stream.writer.transport.get_write_buffer_size() <= 10 << 20
    for future in saying:
        future.cancel()


async def test_who_lets_nothing_be_said_is_cut_off_before_too_much_waits_for_him(guest: Guest) -> None:
    guest.host.send("vc.down", "vm.a", bytes(1 << 20), message_id="m")
    before = guest.host.breaches
    saying = [guest.host.send("vc.down", "vm.a", bytes(1 << 20), message_id="m") for _ in range(200)]
    waiting = guest.host._publisher._waiting

    assert sum(len(one.body) for one in waiting.values()) <= 64 << 20
    await until(lambda: guest.host.breaches == before + 1)
    assert not waiting or not guest.host._publisher._waiting
    done = await asyncio.gather(*saying, return_exceptions=True)
    assert all(isinstance(one, Disconnected) for one in done)
