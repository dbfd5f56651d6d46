"""A tree as a source of bytes: it is read once for its manifest, and again as it is asked for. Blocking.

Small files are kept as they were read first. A larger one that changes in between is sent as it is then, at its old
length; the receiver finds that its SHA-256 is not the manifest's, and takes the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from itertools import islice

from broker.errors import TransferFailed
from broker.trees.contents import digest_of, extents_of
from broker.trees.held import HeldTree, look_at, open_regular_at
from broker.trees.manifest import check_many, make_manifest, path_of
from schemas.codec import clip
from schemas.errors import ErrorCode
from schemas.trees import (
    MAX_ENTRIES,
    MODE_BITS,
    Extent,
    TreeDirectory,
    TreeEntry,
    TreeFile,
    TreeLink,
    TreeSkipped,
    told_path,
)

#: Files that are kept as they were read, and all of them together, bytes.
_SMALL_BYTES, _MOST_KEPT_BYTES = 16 * 1024, 16 << 20
_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device", stat.S_IFCHR: "device"}


class TreeSource:
    """See the module, and ``broker.transfer.source.Source``."""

    def __init__(self, name: str, open_root: Callable[[], int], is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Read a tree. ``open_root`` gives the root's descriptor, which is ours then. Raises as ``read_tree`` does, and
        TransferFailed soon after ``is_wanted`` has said no."""
        self._name, self._open_root = name, open_root
        #: Small files, by their places: to open each twice would take longest of all.
        self._kept: dict[int, bytes] = {}
        self.manifest, self.body = make_manifest(read_tree(open_root(), self._kept, is_wanted))
        self._held: HeldTree | None = None
        #: The file that was read from last.
        self._at, self._file = -1, -1

    @classmethod
    async def reading(cls, name: str, open_root: Callable[[], int], threads: Executor | None = None) -> TreeSource:
        """Read a tree in a thread, of asyncio's default ones or of these, which ends soon after this is cancelled."""
        is_cancelled = False
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(threads, cls, name, open_root, lambda: not is_cancelled)
        except asyncio.CancelledError:
            is_cancelled = True
            raise

    @property
    def name(self) -> str:
        """See ``Source``."""
        return self._name

    @property
    def sha256(self) -> str:
        """What the tree is known by: that of its manifest, which holds those of its files."""
        return hashlib.sha256(self.body).hexdigest()

    def open(self) -> None:
        """See ``Source``."""
        self._held = HeldTree(self._open_root(), self.manifest.entries)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source``."""
        data = bytearray(self.body[offset : offset + length])
        length = min(length, self.manifest.size - offset)
        while len(data) < length:
            at = offset + len(data)
            index = self.manifest.entry_at(at)
            entry = self.manifest.entries[index]
            data += self._read_file(index, entry, at - self.manifest.start_of(index), length - len(data))
        return bytes(data)

    def close(self) -> None:
        """See ``Source``."""
        self._leave()
        if self._held is not None:
            self._held.close()
            self._held = None

    def _read_file(self, index: int, entry: TreeEntry, offset: int, most: int) -> bytes:
        """Read from one extent; what is not there any more is zeros."""
        for start, length in entry.extents if isinstance(entry, TreeFile) else ():
            if offset < length:
                count = min(most, length - offset)
                return self._pread(index, count, start + offset).ljust(count, b"\0")
            offset -= length
        return b"\0" * most

    def _pread(self, index: int, count: int, offset: int) -> bytes:
        if index in self._kept:
            return self._kept[index][offset : offset + count]
        if index != self._at:
            self._leave()
            with contextlib.suppress(OSError):
                self._file = self._held.open_file(index) if self._held is not None else -1
            self._at = index
        return os.pread(self._file, count, offset) if self._file >= 0 else b""

    def _leave(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._at, self._file = -1, -1


def read_tree(root: int, kept: dict[int, bytes], is_wanted: Callable[[], bool] = lambda: True) -> list[TreeEntry]:
    """List what is below a directory, each file read for its SHA-256; ``root`` is closed, and small files are put in
    ``kept``, by their places. What goes meanwhile is not in it.

    Raises OSError naming what cannot be read, and TransferFailed for more than a tree may have."""
    entries: list[TreeEntry] = []
    with HeldTree(root, entries) as held:
        found = os.fstat(root)
        mode = stat.S_IMODE(found.st_mode) & MODE_BITS
        entries.append(TreeDirectory(parent=-1, name=b"", mode=mode, mtime_ns=found.st_mtime_ns))
        reader = _Reader(held, entries, kept, is_wanted)
        pending = [0]
        while pending:
            pending += reversed(reader.read(pending.pop()))
    return entries


class _Reader:
    def __init__(
        self, held: HeldTree, entries: list[TreeEntry], kept: dict[int, bytes], is_wanted: Callable[[], bool]
    ) -> None:
        self._held, self._entries, self._kept, self._is_wanted = held, entries, kept, is_wanted
        self._kept_bytes = 0
        #: The first name of each file that has several.
        self._names: dict[tuple[int, int], int] = {}
        self._extents = 0

    def read(self, parent: int) -> list[int]:
        """Add what is in a directory; give the places of the directories in it."""
        first = len(self._entries)
        for name, is_file in self._names_in(parent):
            with self._naming(parent, name):
                entry = self._read_file(parent, name) if is_file else self._look(parent, name)
            if entry is not None:
                self._entries.append(entry)
                self._extents += len(entry.extents) if isinstance(entry, TreeFile) else 0
            check_many(len(self._entries), self._extents)
            if not self._is_wanted():
                raise TransferFailed(ErrorCode.INTERRUPTED, "nobody waits for it any more")
        return [n for n in range(first, len(self._entries)) if isinstance(self._entries[n], TreeDirectory)]

    def _names_in(self, parent: int) -> list[tuple[bytes, bool]]:
        """Give the names in a directory, and which of them are files."""
        try:
            with self._naming(parent, b""), os.scandir(self._held.directory(parent)) as found:
                some = islice(found, MAX_ENTRIES + 1)
                return sorted((os.fsencode(each.name), each.is_file(follow_symlinks=False)) for each in some)
        except FileNotFoundError:
            return []

    def _look(self, parent: int, name: bytes) -> TreeEntry | None:
        directory = self._held.directory(parent)
        found = look_at(name, directory)
        if found is None:
            return None
        kind, time = stat.S_IFMT(found.st_mode), found.st_mtime_ns
        if kind == stat.S_IFDIR:
            return TreeDirectory(parent=parent, name=name, mode=found.st_mode & MODE_BITS, mtime_ns=time)
        if kind == stat.S_IFLNK:
            return TreeLink(parent=parent, name=name, mtime_ns=time, target=os.readlink(name, dir_fd=directory))
        if kind != stat.S_IFREG:
            return TreeSkipped(parent=parent, name=name, why=f"is a {_KINDS.get(kind, 'thing of its own kind')}")
        return self._read_file(parent, name)

    def _read_file(self, parent: int, name: bytes) -> TreeFile | TreeSkipped | None:
        try:
            file = open_regular_at(name, self._held.directory(parent))
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(file)
            here = len(self._entries)
            first = self._names.setdefault((found.st_dev, found.st_ino), here) if found.st_nlink > 1 else here
            if first != here:
                why = f"is a hard link, another name of {told_path(path_of(self._entries, first))}"
                return TreeSkipped(parent=parent, name=name, why=clip(why, 200))
            size, extents, sha256 = self._contents(file, found)
            mode, time = found.st_mode & MODE_BITS, found.st_mtime_ns
            return TreeFile(
                parent=parent, name=name, mode=mode, mtime_ns=time, size=size, sha256=sha256, extents=extents
            )
        finally:
            os.close(file)

    def _contents(self, file: int, found: os.stat_result) -> tuple[int, tuple[Extent, ...], bytes]:
        """Give a file's size, what of it holds bytes, and their SHA-256; keep it if it is small."""
        if found.st_size > _SMALL_BYTES or self._kept_bytes > _MOST_KEPT_BYTES:
            size, extents = extents_of(file)
            # One that has become shorter is a file of no bytes that anybody has: the receiver will say that it changed.
            return size, extents, digest_of(file, extents, self._is_wanted) or bytes(32)
        data = os.pread(file, _SMALL_BYTES, 0)
        self._kept[len(self._entries)] = data
        self._kept_bytes += len(data)
        return len(data), ((0, len(data)),) if data else (), hashlib.sha256(data).digest()

    @contextlib.contextmanager
    def _naming(self, parent: int, name: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = b"/".join(part for part in (path_of(self._entries, parent), name) if part)
            error.filename = told_path(path) or "."
            raise
