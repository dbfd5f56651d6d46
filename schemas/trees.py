"""The manifest of a tree: what is below a directory, a name at a time. It goes ahead of the files' bytes, in pages.

An entry names the directory that it is in by its place in the list, and itself by one part of a path: no manifest can
say ``..``, an absolute path, or a file below a file. Names are bytes, as the kernel has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from schemas.errors import DecodeError
from schemas.files import MAX_MANIFEST_BYTES
from schemas.plain_text import plain

#: Entries of one tree, and parts of all its files that hold bytes, at most; directories within each other.
MAX_ENTRIES, MAX_EXTENTS, MAX_DEPTH = 200_000, 400_000, 200
#: What of a mode is carried: who may read, write and run it, and neither setuid, setgid nor the sticky bit.
MODE_BITS = 0o777
#: A page does not grow beyond this by another entry, bytes; its length is ahead of it, in so many.
PAGE_BYTES, _LENGTH_BYTES = 64 * 1024, 4
#: Parts of one file that hold bytes, at most; a page has one entry at least, so none is longer than this, bytes.
MAX_EXTENTS_OF_FILE, MAX_PAGE_BYTES = 10_000, 512 * 1024

Name = Annotated[bytes, Meta(max_length=255)]
#: Larger than any file system takes.
Size = Annotated[int, Meta(ge=0, lt=1 << 62)]
#: When it was written, ns since 1970.
Time = Annotated[int, Meta(ge=-(1 << 62), lt=1 << 62)]
Mode = Annotated[int, Meta(ge=0, le=MODE_BITS)]
#: The place of the directory that it is in; the root is in none.
Place = Annotated[int, Meta(ge=-1, lt=MAX_ENTRIES)]
#: What of a file holds bytes: from an offset so many. All else is zeros.
Extent = tuple[Size, Annotated[int, Meta(ge=1, lt=1 << 62)]]


class TreeDirectory(Struct, frozen=True, array_like=True, gc=False, tag="d"):
    """A directory; the first entry is the root, which has no name."""

    parent: Place
    name: Name
    mode: Mode
    mtime_ns: Time


class TreeFile(Struct, frozen=True, array_like=True, gc=False, tag="f"):
    """A regular file; ``sha256`` is of its extents, one after the other."""

    parent: Place
    name: Name
    mode: Mode
    mtime_ns: Time
    size: Size
    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]
    extents: Annotated[tuple[Extent, ...], Meta(max_length=MAX_EXTENTS_OF_FILE)]

    @property
    def length(self) -> int:
        """What it takes of the stream, bytes."""
        return sum(length for _, length in self.extents)


class TreeLink(Struct, frozen=True, array_like=True, gc=False, tag="l"):
    """A symbolic link, which nobody follows."""

    parent: Place
    name: Name
    mtime_ns: Time
    target: Annotated[bytes, Meta(min_length=1, max_length=4095)]


class TreeSkipped(Struct, frozen=True, array_like=True, gc=False, tag="s"):
    """What is there and is not sent; ``why`` in words for a person."""

    parent: Place
    name: Name
    why: Annotated[str, Meta(max_length=200)]


TreeEntry = TreeDirectory | TreeFile | TreeLink | TreeSkipped

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[TreeEntry])


def encode_manifest(entries: Iterable[TreeEntry]) -> bytes:
    """Render entries in pages. Raises DecodeError for a manifest that is longer than one may be."""
    pages, page, length, total = [], bytearray(), 0, 0
    for entry in entries:
        body = _encoder.encode(entry)
        if length and len(page) + len(body) > PAGE_BYTES:
            pages.append(_page(length, page))
            page, length = bytearray(), 0
        page += body
        length += 1
        total += len(body)
        if total > MAX_MANIFEST_BYTES - PAGE_BYTES:
            raise DecodeError(f"its manifest would have more than the {MAX_MANIFEST_BYTES} bytes that one may have")
    return b"".join([*pages, _page(length, page)])


def decode_pages(manifest: bytes) -> Iterator[list[TreeEntry]]:
    """Read a manifest page by page, so that nobody else waits long meanwhile. Raises DecodeError."""
    view, at = memoryview(manifest), 0
    while at < len(view):
        length = int.from_bytes(view[at : at + _LENGTH_BYTES])
        end = at + _LENGTH_BYTES + length
        if end > len(view) or length > MAX_PAGE_BYTES:
            raise DecodeError(f"a page of {length} bytes: the manifest ends within it, or {MAX_PAGE_BYTES} are allowed")
        try:
            yield _decoder.decode(view[at + _LENGTH_BYTES : end])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"no page of a manifest: {error}") from error
        at = end


def told_path(path: bytes) -> str:
    """Say a path for a person, on one line, whatever bytes it is made of."""
    return plain(path.decode("utf-8", "backslashreplace"))


def _page(count: int, entries: bytearray) -> bytes:
    body = b"\xdd" + count.to_bytes(4, "big") + entries
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body
