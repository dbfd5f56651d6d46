"""Inputs that a host fetches once for all of its guests: what a guest asks its host for, and how it is handed over.

The bytes take another way, a medium that the host's driver has: here is only said what lies there. A host asks the
centre for each of its VMs whether that one may have an input, also where it holds the bytes: to know a digest is no
right.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import Bytes, Reason
from schemas.ids import MessageId, Sha256
from schemas.vms import Name

#: What of a file may ride in the word that it is there, bytes: a medium shows whole units.
MAX_TAIL_BYTES = 4096


class Medium(StrEnum):
    """Where a guest finds what its host shows it. A word that a guest does not know it leaves."""

    #: A drive whose model the name gives, read-only: the file from its first byte on.
    DISK = "disk"
    #: A file of that name in ``host-inputs``, in the guest agent's directory.
    FILE = "file"


class InputWant(Message, frozen=True, kw_only=True, tag="input.want"):
    """A guest would have an input from its host: answered by waits, then by ready or refused."""

    sha256: Sha256


class InputRight(Message, frozen=True, kw_only=True, tag="input.right"):
    """May that VM of the sender's have this input? Done: an attempt that it holds names it. Failed: no."""

    vm: Name
    sha256: Sha256


class InputWait(Message, frozen=True, kw_only=True, tag="input.wait"):
    """The host is at it. A guest waits for a while on that word, and longer only where more has come."""

    want: MessageId
    #: What the host has of it, and has read of that for its sums.
    received: Bytes = 0


class InputReady(Message, frozen=True, kw_only=True, tag="input.ready"):
    """It lies there, for this guest alone, until it says ``input.taken`` or is too slow."""

    want: MessageId
    medium: Annotated[str, Meta(max_length=32)]
    name: Annotated[str, Meta(max_length=255)]
    size: Bytes
    #: Of the whole file, as the host had it when it found its SHA-256 right.
    crc32: Annotated[int, Meta(ge=0, lt=1 << 32)]
    #: The end of the file, where the medium shows whole units only.
    tail: Annotated[bytes, Meta(max_length=MAX_TAIL_BYTES)] = b""


class InputOutcome(StrEnum):
    """What a guest made of what it was shown."""

    READ = "read"
    #: It has not the size or the CRC-32 that was told.
    DAMAGED = "damaged"
    #: There is no such medium here, or it cannot be read.
    UNREAD = "unread"


class InputTaken(Message, frozen=True, kw_only=True, tag="input.taken"):
    """The guest needs the medium no more. Damaged: it waits for one more answer to the same want."""

    want: MessageId
    outcome: InputOutcome


class InputRefused(Message, frozen=True, kw_only=True, tag="input.refused"):
    """The host has it not, and says why: the guest asks the centre itself."""

    want: MessageId
    code: ErrorCode
    message: Reason
