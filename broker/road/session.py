"""What two ends of a road agree on: that both are there, what each has said, and what became of it. Pure.

An end may be replaced at any time, with the stream or without: whoever says hello under another session's name is new,
and what the one before it had said, and what it had been told, is void. As a stream keeps its order, nothing of the old
comes after the new one's hello was answered.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from msgspec import Struct

from broker.errors import Breach, FrameTooLong
from broker.road.slip import Unwrapper, wrap
from schemas.errors import DecodeError
from schemas.road import MAX_FRAME_BYTES, ROAD_VERSION, Hello, Say, Settled, Verdict, decode_frame, encode_frame


class SessionBounds(Struct, frozen=True, kw_only=True):
    """What the other end may have said that we have not settled."""

    most_messages: int = 256
    most_bytes: int = 8 << 20


#: What we say and is not settled, however much the other end allows: it may read nothing of it.
MOST_SAID = SessionBounds()


class Up(Struct, frozen=True):
    """Both ends are there."""


class Anew(Struct, frozen=True):
    """The other end is the first, or another one than it was: what was under way with that one is void."""


#: What the other end's bytes may bring.
Event = Up | Anew | Say | Settled
#: Frames of one other end that cannot be read: each end that was killed leaves one that was cut. More is garbage.
MOST_FLAWS = 2


class Session:
    """One end. ``open`` for each new stream."""

    def __init__(self, bounds: SessionBounds | None = None) -> None:
        self._bounds = bounds or SessionBounds()
        self._number = 0
        #: What either has said that is not settled, bytes by number.
        self._said: dict[int, int] = {}
        self._heard: dict[int, int] = {}
        self._said_bytes = self._heard_bytes = self._last_heard = self._flaws = 0
        self._has_answered = False
        self.open()

    def open(self) -> bytes:
        """Begin on a new stream: give what to write first. What was said before is void."""
        self._frames = Unwrapper(MAX_FRAME_BYTES)
        self._mine, self._theirs = secrets.token_hex(8), ""
        self.is_up = False
        self._void()
        return self.hello()

    def hello(self) -> bytes:
        """Give what says, once more, that we are here."""
        bounds = self._bounds
        return _wrapped(
            Hello(
                session=self._mine,
                heard=self._theirs,
                most_messages=bounds.most_messages,
                most_bytes=bounds.most_bytes,
            )
        )

    def may_say(self, size_bytes: int) -> bool:
        """Say whether the other end lets us say one more, of that size, now; the first it always does."""
        if not self.is_up or len(self._said) >= self._they_allow.most_messages:
            return False
        return not self._said or self._said_bytes + size_bytes <= self._they_allow.most_bytes

    def say(self, exchange: str, key: str, message_id: str, body: bytes) -> tuple[int, bytes]:
        """Give a message's number and what to write of it; see ``may_say``."""
        self._number += 1
        frame = Say(number=self._number, exchange=exchange, key=key, message_id=message_id, body=body)
        self._said[self._number] = size = size_of(exchange, key, message_id, body)
        self._said_bytes += size
        return self._number, _wrapped(frame)

    def settle(self, number: int, verdict: Verdict, reason: str = "") -> bytes:
        """Give what tells what became of a message of the other's; nothing for one that is void, or settled."""
        size = self._heard.pop(number, None)
        if size is None:
            return b""
        self._heard_bytes -= size
        return _wrapped(Settled(number=number, verdict=verdict, reason=reason[:200]))

    def receive(self, piece: bytes) -> Iterator[Event | bytes]:
        """Take in bytes; yield what they bring, and (bytes) what is to be written for them. Raises Breach."""
        try:
            frames = self._frames.feed(piece)
        except FrameTooLong as error:
            raise Breach(f"a frame of more than {MAX_FRAME_BYTES} bytes") from error
        self._has_answered = False
        for frame in frames:
            yield from self._on_frame(frame)

    def _on_frame(self, body: bytes) -> Iterator[Event | bytes]:
        try:
            frame = decode_frame(body)
        except DecodeError as error:
            self._flaws += 1
            if self._flaws > MOST_FLAWS:
                raise Breach(f"garbage: {error.reason}") from error
            return
        if isinstance(frame, Hello):
            yield from self._on_hello(frame)
        elif self.is_up:
            yield from self._on_say(frame) if isinstance(frame, Say) else self._on_settled(frame)

    def _on_hello(self, hello: Hello) -> Iterator[Event | bytes]:
        if hello.version != ROAD_VERSION:
            raise Breach(f"it speaks version {hello.version} of the road, we speak {ROAD_VERSION}")
        is_new, knows_us = hello.session != self._theirs, hello.heard == self._mine
        if is_new:
            self.is_up, self._theirs = False, hello.session
            self._void()
            self._they_allow = SessionBounds(
                most_messages=min(hello.most_messages, MOST_SAID.most_messages),
                most_bytes=min(hello.most_bytes, MOST_SAID.most_bytes),
            )
            yield Anew()
        if is_new or not (knows_us or self.is_up or self._has_answered):
            # Of many that lay in the stream, said while we were not there, one is answered.
            self._has_answered = True
            yield self.hello()
        if knows_us and not self.is_up:
            self.is_up = True
            yield Up()

    def _on_say(self, said: Say) -> Iterator[Event]:
        if said.number <= self._last_heard:
            raise Breach(f"message {said.number} after {self._last_heard}")
        self._last_heard = said.number
        self._heard[said.number] = size = size_of(said.exchange, said.key, said.message_id, said.body)
        self._heard_bytes += size
        bounds, is_alone = self._bounds, len(self._heard) == 1
        if len(self._heard) > bounds.most_messages or (self._heard_bytes > bounds.most_bytes and not is_alone):
            raise Breach(f"a flood: more than {bounds.most_messages} messages or {bounds.most_bytes} bytes unsettled")
        yield said

    def _on_settled(self, settled: Settled) -> Iterator[Event]:
        size = self._said.pop(settled.number, None)
        if size is None:
            raise Breach(f"it settles message {settled.number}, which is not its to settle")
        self._said_bytes -= size
        yield settled

    def _void(self) -> None:
        self._said, self._heard = {}, {}
        self._said_bytes = self._heard_bytes = self._last_heard = 0
        self._they_allow = SessionBounds(most_messages=0, most_bytes=0)
        self._flaws = 0


def size_of(exchange: str, key: str, message_id: str, body: bytes) -> int:
    """Give what of a message counts against the bounds: all that its sender decides."""
    return len(exchange) + len(key) + len(message_id) + len(body)


def _wrapped(frame: Hello | Say | Settled) -> bytes:
    return wrap(encode_frame(frame))
