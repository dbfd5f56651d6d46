"""Frames of the local road, between a host's agent and a guest's: what AMQP is between them and the centre.

A frame is a msgpack array, delimited as RFC 1055 (SLIP) has it. Who speaks is no field of any: each end knows who is at
the other.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from schemas.envelope import MAX_BODY_BYTES
from schemas.errors import DecodeError

#: Raised by a change that an older peer would misread.
ROAD_VERSION = 1
#: Longest frame, bytes: a message and what names it.
MAX_FRAME_BYTES = MAX_BODY_BYTES + 4096


SessionName = Annotated[str, msgspec.Meta(max_length=64)]


class Verdict(StrEnum):
    """What became of a message at the other end."""

    #: Its reader has it, and has acknowledged it.
    TAKEN = "taken"
    #: Nobody reads there.
    UNROUTABLE = "unroutable"
    #: Somebody would, and cannot now.
    REFUSED = "refused"


class Frame(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag_field="frame"):
    """What every frame is."""


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """An end is there. Both have said it, and heard it, before either says anything else."""

    version: int = ROAD_VERSION
    #: Names this end's session: another one means that all before is void.
    session: SessionName
    #: The session of the other end that it has heard; empty: none.
    heard: SessionName = ""
    #: How much the other may have said that is not settled: messages, and bytes of bodies.
    most_messages: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
    most_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Say(Frame, frozen=True, kw_only=True, tag="say"):
    """A message, to an exchange under a key."""

    #: Grows with each.
    number: int
    exchange: str
    key: str
    message_id: str
    body: bytes


class Settled(Frame, frozen=True, kw_only=True, tag="settled"):
    """What became of a message of the other's."""

    number: int
    verdict: Verdict
    #: For a person.
    reason: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Hello | Say | Settled] = msgspec.msgpack.Decoder(Hello | Say | Settled)


def encode_frame(frame: Frame) -> bytes:
    """Render a frame."""
    return _encoder.encode(frame)


def decode_frame(body: bytes) -> Hello | Say | Settled:
    """Read a frame. Raises DecodeError, and nothing else, whatever the bytes."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a frame: {error}") from error
