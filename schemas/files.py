"""Files on the wire: offer, get, window, chunk, done. One protocol for every pair of ends.

The receiver rules: its ``file.window`` names the epoch, the durable offset and how far the sender may go; chunks at
another offset are dropped. See ``broker.transfer`` for both ends' state machines.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.ids import JobRef, MessageId, Sha256

#: Largest chunk, bytes.
MAX_CHUNK_BYTES = 256 * 1024
#: Most that a receiver lets be on its way, bytes.
MAX_WINDOW_BYTES = 4 << 20

#: Longest manifest of a tree, bytes.
MAX_MANIFEST_BYTES = 32 << 20
#: Parts of one grant that need not be sent, at most.
MAX_GAPS = 500

#: Longest path of a file on the wire, characters.
MAX_PATH = 1024

Bytes = Annotated[int, Meta(ge=0)]
RelativePath = Annotated[str, Meta(min_length=1, max_length=MAX_PATH)]
#: Why a transfer ended, in words for a person.
Reason = Annotated[str, Meta(max_length=4096)]

#: ``file.wait`` of one end that count as a sign of life in a transfer: an hour of them, at one in four seconds.
MOST_WAITS = 900


class InputFile(Struct, frozen=True, kw_only=True, tag="input"):
    """A file in the content-addressed store."""

    sha256: Sha256


class OutputFile(Struct, frozen=True, kw_only=True, tag="output"):
    """An output of one attempt of a job."""

    job: JobRef
    attempt: int
    name: RelativePath


class GuestFile(Struct, frozen=True, kw_only=True, tag="path", omit_defaults=True):
    """A file inside a VM, its path below the agent's file area or absolute."""

    path: RelativePath
    executable: bool = False
    #: What the file is called where it comes from: its name when ``path`` is a directory, as with ``cp``.
    source: Annotated[str, Meta(max_length=255)] = ""
    #: Of what is asked for: where it is a directory, the answer offers its tree.
    recursive: bool = False


class GuestTree(Struct, frozen=True, kw_only=True, tag="tree", omit_defaults=True):
    """A directory inside a VM and all that is below it. The stream is a manifest (``schemas.trees``), then the bytes of
    its files in its order, their holes left out; the SHA-256 offered is the manifest's, which holds the files'."""

    path: RelativePath
    #: Length of the manifest at the head of the stream, bytes.
    manifest: Annotated[int, Meta(ge=1, le=MAX_MANIFEST_BYTES)]
    #: What the directory is called where it comes from: its name when ``path`` is a directory, as with ``cp -r``; empty
    #: where it is to be ``path`` itself.
    source: Annotated[bytes, Meta(max_length=255)] = b""


FileName = InputFile | OutputFile | GuestFile | GuestTree


class FileOffer(Message, frozen=True, kw_only=True, tag="file.offer"):
    """ "I have a file for you": ``id`` names the transfer; sent again, the receiver says how far it came."""

    file: FileName
    size: Bytes
    sha256: Sha256


class FileGet(Message, frozen=True, kw_only=True, tag="file.get"):
    """ "Give me that file": answered by an offer with the same id."""

    file: FileName
    #: The VM of a host that asks for one of its guests; empty from anybody else.
    vm: Annotated[str, Meta(max_length=128)] = ""


class FileWindow(Message, frozen=True, kw_only=True, tag="file.window"):
    """Grant, acknowledgement and nack in one: in ``epoch``, send from ``offset`` to ``limit``, but for ``gaps``."""

    transfer: MessageId
    epoch: int
    #: All before it is durable at the receiver.
    offset: Bytes
    limit: Bytes
    #: What the receiver has of it: from an offset to before another, in order. Of a tree only.
    gaps: Annotated[tuple[tuple[Bytes, Bytes], ...], Meta(max_length=MAX_GAPS)] = ()


class FileChunk(Message, frozen=True, kw_only=True, tag="file.chunk"):
    """A piece of a file. ``crc32`` is of ``data``."""

    transfer: MessageId
    epoch: int
    offset: Bytes
    crc32: int
    data: bytes


class FileDone(Message, frozen=True, kw_only=True, tag="file.done"):
    """The receiver has the whole file, its SHA-256 as offered, durable under its name."""

    transfer: MessageId


class FileWait(Message, frozen=True, kw_only=True, tag="file.wait"):
    """ "I am here, and not ready yet": the file is read for its digest, what came before is read again, or others are
    served first. Said each time that the other end asks, so that it can tell this from silence."""

    transfer: MessageId


class FileAbort(Message, frozen=True, kw_only=True, tag="file.abort"):
    """Either end gives up; nothing under the file's name was changed."""

    transfer: MessageId
    code: ErrorCode
    message: Reason
