"""Gives the entries of a tree their names, times and modes: in directories that are held, many at a time. Blocking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence

from broker import durable
from broker.errors import TransferFailed
from broker.trees.held import HeldTree, look_at
from broker.trees.incoming import is_marked, mark_of, name_of
from broker.trees.manifest import Manifest
from broker.trees.place import HeldPlace, make_usable
from broker.trees.plan import TreePlan
from schemas.errors import ErrorCode
from schemas.trees import TreeDirectory, TreeFile, TreeLink

#: Files, and bytes of them, that are made durable and given their names together.
_BATCH_FILES, _BATCH_BYTES = 1000, 32 << 20
#: A file that is put where it belongs at once has at most this, bytes: it comes in one chunk.
_SMALL_BYTES = 64 * 1024
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Placing:
    """See the module. ``held`` is closed with it."""

    def __init__(self, manifest: Manifest, held: HeldTree, place: HeldPlace, told: str) -> None:
        self._manifest, self._held, self._place, self._told = manifest, held, place, told
        #: Whole files that have no name yet, each with what it is called while it comes.
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        #: Which entry each thing in the place is: where names differ only for the sender, two would be one.
        self._owners: dict[tuple[int, int], int] = {}

    def begin(self, plan: TreePlan) -> None:
        """Make the directories that are missing; give files that are there their modes and times."""
        for index in plan.directories:
            with self.naming(index):
                entry = self._manifest.entries[index]
                with contextlib.suppress(FileExistsError):
                    os.mkdir(entry.name, 0o700, dir_fd=self._usable_parent(index))
        for index, entry in enumerate(self._manifest.entries):
            if isinstance(entry, TreeDirectory):
                with self.naming(index):
                    self._own(index, os.fstat(self._held.directory(index)))
        for index in plan.known:
            with self.naming(index):
                self._mend(index)

    def puts(self, entry: TreeFile) -> bool:
        """Say whether a file may be put where it belongs at once: nobody sees a new tree before it is whole."""
        is_plain = entry.extents == ((0, entry.size),) or not entry.size
        return self._place.is_new and is_plain and entry.length <= _SMALL_BYTES

    def put(self, index: int, entry: TreeFile, data: memoryview) -> bool:
        """Write a whole file. False: it is not what the manifest says, and is not there."""
        if hashlib.sha256(data).digest() != entry.sha256:
            return False
        with self.naming(index):
            self._write(index, entry, data)
        return True

    def make_way_for(self, entry: TreeFile) -> None:
        """Have nothing wait under the name that a file is to come under."""
        if is_marked(entry) and any(name == name_of(entry, 0) for _, name in self._waiting):
            self.flush()

    def add(self, index: int, name: bytes) -> None:
        """A file has come whole, and gets its name soon."""
        entry = self._manifest.entries[index]
        self._waiting.append((index, name))
        self._waiting_bytes += entry.length if isinstance(entry, TreeFile) else 0
        if len(self._waiting) >= _BATCH_FILES or self._waiting_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Give all that wait their names. In a tree that is new they are durable when that has its own."""
        if self._waiting and not self._place.is_new:
            self._place.sync()
        while self._waiting:
            index, name = self._waiting.pop()
            with self.naming(index):
                self._rename(index, name)
        self._waiting_bytes = 0

    def place_links(self, indexes: Sequence[int]) -> None:
        """Make symbolic links, which replace what was there, but for a directory."""
        for index in indexes:
            entry = self._manifest.entries[index]
            if isinstance(entry, TreeLink):
                with self.naming(index):
                    self._link(index, entry)

    def finish(self, left_out: frozenset[int]) -> None:
        """Give directories their modes and times, from the innermost; see that all is there, and on the disk.

        Raises TransferFailed where it is not.
        """
        self.flush()
        self._check_all(left_out)
        for index in range(len(self._manifest.entries) - 1, 0, -1):
            if isinstance(self._manifest.entries[index], TreeDirectory):
                self.dress(index)
        self._place.sync()

    def dress(self, index: int) -> None:
        """Give a directory its mode and time, as far as it is ours; the root last: what is made, removed or renamed
        changes its time, and may need rights that its mode has not."""
        entry = self._manifest.entries[index]
        if isinstance(entry, TreeDirectory) and (index or self._place.is_named):
            with contextlib.suppress(PermissionError), self.naming(index):
                directory = self._held.directory(index)
                os.utime(directory, ns=(entry.mtime_ns, entry.mtime_ns))
                os.fchmod(directory, entry.mode)
                if not index:
                    os.fsync(directory)

    def close(self) -> None:
        """Let go. Idempotent."""
        self._held.close()

    def _write(self, index: int, entry: TreeFile, data: memoryview) -> None:
        directory = self._held.parent(index)
        try:
            file = os.open(entry.name, _NEW, entry.mode, dir_fd=directory)
        except FileExistsError:  # a receiver that was killed has left it
            os.unlink(entry.name, dir_fd=directory)
            file = os.open(entry.name, _NEW, entry.mode, dir_fd=directory)
        self._own(index, _fill(file, entry, data))

    def _usable_parent(self, index: int) -> int:
        directory = self._held.parent(index)
        if not self._place.is_new:
            make_usable(directory)
        return directory

    def _rename(self, index: int, name: bytes) -> None:
        entry = self._manifest.entries[index]
        directory = self._usable_parent(index)
        found = look_at(entry.name, directory)
        if found is not None:
            self._check_free(index, found)
        os.rename(name, entry.name, src_dir_fd=self._place.gathering, dst_dir_fd=directory)
        if isinstance(entry, TreeFile) and is_marked(entry):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(mark_of(entry), dir_fd=self._place.gathering)
        self._own(index, os.stat(entry.name, dir_fd=directory, follow_symlinks=False))

    def _link(self, index: int, entry: TreeLink) -> None:
        aside = b"%d" % index
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=self._place.gathering)
        os.symlink(entry.target, aside, dir_fd=self._place.gathering)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(aside, ns=times, dir_fd=self._place.gathering, follow_symlinks=False)
        self._rename(index, aside)

    def _mend(self, index: int) -> None:
        """Have a file that is there be as the manifest says, its bytes apart."""
        entry = self._manifest.entries[index]
        file = self._held.open_file(index)
        try:
            found = os.fstat(file)
            self._own(index, found)
            if isinstance(entry, TreeFile):
                if stat.S_IMODE(found.st_mode) != entry.mode:
                    os.fchmod(file, entry.mode)
                if found.st_mtime_ns != entry.mtime_ns:
                    os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(file)

    def _own(self, index: int, found: os.stat_result) -> None:
        self._check_free(index, found)
        self._owners[found.st_dev, found.st_ino] = index

    def _check_free(self, index: int, found: os.stat_result) -> None:
        other = self._owners.get((found.st_dev, found.st_ino), index)
        if other != index:
            told = self._manifest.told
            text = (
                f"{self._told}: {told(index)} and {told(other)} are one there: its names differ only in their case, or"
            )
            raise TransferFailed(ErrorCode.CONFLICT, f"{text} one is another name of the other; rename one of them")

    def _check_all(self, left_out: frozenset[int]) -> None:
        """See that each name of the tree leads to what came for it."""
        for index, entry in enumerate(self._manifest.entries):
            if isinstance(entry, TreeFile) and index not in left_out:
                with self.naming(index):
                    found = look_at(entry.name, self._held.parent(index))
                if found is not None:
                    self._check_free(index, found)
                if found is None or self._owners.get((found.st_dev, found.st_ino)) != index:
                    text = f"{self._told}: {self._manifest.told(index)} was changed there while the tree came"
                    raise TransferFailed(ErrorCode.CONFLICT, f"{text}; send it again")

    @contextlib.contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Have an OSError name the entry."""
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = f"{self._told}/{self._manifest.told(index)[1:-1]}", None
            raise


def _fill(file: int, entry: TreeFile, data: memoryview) -> os.stat_result:
    """Write and close a new file; say which one it is."""
    try:
        durable.write_all(file, data)
        found = os.fstat(file)
        if stat.S_IMODE(found.st_mode) != entry.mode:
            os.fchmod(file, entry.mode)
        os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
        return found
    finally:
        os.close(file)
