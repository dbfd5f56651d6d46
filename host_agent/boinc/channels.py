"""The memory that BOINC's client and its application share: eight channels of one message each.

Byte 0 of a channel says whether a message waits; its text follows and ends with a NUL. Neither side locks: who sends
writes the text and then the flag, who receives copies the text and then clears the flag. Source: ``lib/app_ipc.h``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

#: Length of a channel, and of the longest text in one, bytes.
CHANNEL_BYTES = 1024
MOST_TEXT_BYTES = CHANNEL_BYTES - 2


class Channel(IntEnum):
    """What a channel is for, by its place."""

    CONTROL_REQUEST = 0
    CONTROL_REPLY = 1
    GRAPHICS_REQUEST = 2
    GRAPHICS_REPLY = 3
    HEARTBEAT = 4
    APP_STATUS = 5
    TRICKLE_UP = 6
    TRICKLE_DOWN = 7


#: Length of the whole, bytes.
SEGMENT_BYTES = CHANNEL_BYTES * len(Channel)


class Memory(Protocol):
    """Bytes that both sides see: a ``bytearray``, an ``mmap``, a ``memoryview`` of either."""

    def __getitem__(self, part: slice, /) -> bytes | bytearray | memoryview:
        """Read."""

    def __setitem__(self, part: slice, data: bytes, /) -> None:
        """Write."""


def receive(memory: Memory, channel: Channel) -> str | None:
    """Take the message that waits in a channel; None where none does. The sender may then send the next."""
    begin = channel * CHANNEL_BYTES
    if bytes(memory[begin : begin + 1]) == b"\0":
        return None
    text, _, _ = bytes(memory[begin + 1 : begin + CHANNEL_BYTES]).partition(b"\0")
    memory[begin : begin + 1] = b"\0"
    return text.decode("utf-8", "replace")


def send(memory: Memory, channel: Channel, text: str) -> bool:
    """Leave a message in a channel. False: the one before has not been taken, and this one is not left.

    Raises ValueError for a text that does not fit: nothing is left then either.
    """
    body = text.encode()
    if len(body) > MOST_TEXT_BYTES or b"\0" in body:
        raise ValueError(f"{channel.name.lower()}: {len(body)} bytes, at most {MOST_TEXT_BYTES} and no NUL")
    begin = channel * CHANNEL_BYTES
    if bytes(memory[begin : begin + 1]) != b"\0":
        return False
    memory[begin + 1 : begin + len(body) + 2] = body + b"\0"
    memory[begin : begin + 1] = b"\1"
    return True
