"""A manifest that has been judged: which entry each byte of a tree's stream belongs to, and what each is called. Pure.

Whoever made it, its entries form one tree: each name is one part, once in its directory, and no size lies.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections.abc import Iterable

from broker.errors import TransferFailed
from schemas.codec import clip
from schemas.errors import DecodeError, ErrorCode
from schemas.files import GuestTree
from schemas.trees import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_EXTENTS,
    TreeDirectory,
    TreeEntry,
    TreeFile,
    TreeLink,
    TreeSkipped,
    decode_pages,
    encode_manifest,
    told_path,
)

#: Of what a tree leaves out so many are named: a path may have 50,000 characters.
MOST_TOLD = 1000


class Manifest:
    """See the module. The stream of a tree is its manifest, then the bytes of each file, in order."""

    def __init__(self, entries: list[TreeEntry], length: int) -> None:
        """Take entries that are known to be right; ``length`` is the manifest's own."""
        self.entries, self.length = entries, length
        lengths = (entry.length if isinstance(entry, TreeFile) else 0 for entry in entries)
        self._starts = array("q", itertools.accumulate(lengths, initial=length))

    @property
    def size(self) -> int:
        """Length of the stream, bytes."""
        return self._starts[-1]

    def start_of(self, index: int) -> int:
        """Give where in the stream the bytes of an entry begin."""
        return self._starts[index]

    def entry_at(self, offset: int) -> int:
        """Give the place of the file that a byte behind the manifest belongs to."""
        return bisect_right(self._starts, offset) - 1

    def entries_before(self, offset: int) -> int:
        """Count the entries that need nothing from an offset on."""
        return max(0, min(len(self.entries), self.entry_at(offset)))

    def path_of(self, index: int) -> bytes:
        """Give the path of an entry below the root."""
        return path_of(self.entries, index)

    def told(self, index: int) -> str:
        """Say which one it is, for a person."""
        return repr(told_path(self.path_of(index)) or ".")

    @property
    def left_out(self) -> int:
        """How much of the tree is not sent."""
        return sum(isinstance(entry, TreeSkipped) for entry in self.entries)

    def skipped(self) -> list[str]:
        """Say what of the tree is not sent, each with the reason; of many the first ``MOST_TOLD``."""
        found = (n for n, entry in enumerate(self.entries) if isinstance(entry, TreeSkipped))
        first = itertools.islice(found, MOST_TOLD)
        return [clip(f"{told_path(self.path_of(n))}: {getattr(self.entries[n], 'why', '')}") for n in first]


def path_of(entries: list[TreeEntry], index: int) -> bytes:
    """Give the path of an entry below the root, which is in no directory."""
    parts = []
    while index > 0:
        parts.append(entries[index].name)
        index = entries[index].parent
    return b"/".join(reversed(parts))


def make_manifest(entries: list[TreeEntry]) -> tuple[Manifest, bytes]:
    """Make the manifest of entries, and render it. Raises TransferFailed for a tree that is too large for one."""
    try:
        body = encode_manifest(entries)
    except DecodeError as error:
        raise TransferFailed(ErrorCode.TOO_LARGE, f"the tree is too large: {error.reason}; send parts of it") from error
    return Manifest(entries, len(body)), body


def check_many(entries: int, extents: int = 0) -> None:
    """Raise TransferFailed for more than a tree may have."""
    if entries > MAX_ENTRIES or extents > MAX_EXTENTS:
        text = f"a tree may have {MAX_ENTRIES} entries, and {MAX_EXTENTS} parts of files that hold bytes"
        raise TransferFailed(ErrorCode.TOO_LARGE, f"the tree is too large: {text}; send parts of it, or an archive")


def judge_manifest(body: bytes, size: int) -> Manifest:
    """Read a manifest of a stream of ``size`` bytes. Raises TransferFailed saying what is wrong with it."""
    try:
        entries = _entries(decode_pages(body))
        _check_tree(entries)
    except DecodeError as error:
        raise _bad(error.reason) from error
    manifest = Manifest(entries, len(body))
    if manifest.size != size:
        raise _bad(f"its files and itself are {manifest.size} bytes, and {size} were offered")
    return manifest


def check_offer(tree: GuestTree, size: int) -> None:
    """Raise TransferFailed where what is offered has not even room for its manifest."""
    if size < tree.manifest:
        raise _bad(f"it is {tree.manifest} bytes, and {size} were offered")


def _entries(pages: Iterable[list[TreeEntry]]) -> list[TreeEntry]:
    entries: list[TreeEntry] = []
    extents = 0
    for page in pages:
        entries += page
        extents += sum(len(entry.extents) for entry in page if isinstance(entry, TreeFile))
        check_many(len(entries), extents)
    if sum(entry.length for entry in entries if isinstance(entry, TreeFile)) >= 1 << 62:
        raise _bad("its files are together longer than any disk")
    return entries


def _check_tree(entries: list[TreeEntry]) -> None:
    root = entries[0] if entries else None
    if not isinstance(root, TreeDirectory) or root.parent != -1 or root.name:
        raise _bad("the first entry is to be the root: a directory without a name")
    depths = {0: 0}
    seen: set[tuple[int, bytes]] = set()
    for index, entry in enumerate(entries[1:], start=1):
        parent, name = entry.parent, entry.name
        if parent not in depths or parent >= index:
            raise _bad(f"entry {index} is in {parent}, which is no directory before it")
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise _bad(f"entry {index} is called {told_path(name)!r}; one part of a path is allowed")
        if (parent, name) in seen:
            raise _bad(f"entry {index}, {told_path(name)!r}, is there twice")
        seen.add((parent, name))
        if isinstance(entry, TreeDirectory):
            depths[index] = depths[parent] + 1
            if depths[index] > MAX_DEPTH:
                raise _bad(f"its directories are more than {MAX_DEPTH} within each other")
        elif isinstance(entry, TreeFile):
            _check_extents(entry, index)
        elif isinstance(entry, TreeLink) and b"\0" in entry.target:
            raise _bad(f"entry {index}, {told_path(name)!r}, is a link to a path that no path can be")


def _check_extents(entry: TreeFile, index: int) -> None:
    end = 0
    for start, length in entry.extents:
        if start < end or start + length > entry.size:
            raise _bad(f"entry {index}, {told_path(entry.name)!r}, has bytes at {start} that are not within its size")
        end = start + length


def _bad(why: str) -> TransferFailed:
    return TransferFailed(ErrorCode.BAD_REQUEST, f"the manifest of the tree is refused: {clip(why)}")
