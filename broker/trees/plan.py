"""What of a tree is there already, what is in its way, and what is to come. Looks, and changes nothing. Blocking."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from msgspec import Struct

from broker.errors import TransferFailed
from broker.transfer.gaps import Gaps
from broker.trees.contents import is_content
from broker.trees.held import HeldTree, look_at
from broker.trees.incoming import marked
from broker.trees.manifest import Manifest
from schemas.errors import ErrorCode
from schemas.trees import TreeDirectory, TreeFile, TreeLink

#: Things in the way that a refusal names.
_MOST_NAMED = 3


class TreePlan(Struct, kw_only=True):
    """By their places in the manifest: directories to make, files and links to come, and files that have all but their
    mode or time."""

    directories: list[int]
    files: list[int]
    links: list[int]
    known: list[int]

    def gaps(self, manifest: Manifest, gathering: int) -> Gaps:
        """Give what of the stream need not come: all but what of these files is missing."""
        return Gaps(self._spans(manifest, gathering))

    def _spans(self, manifest: Manifest, gathering: int) -> Iterator[tuple[int, int]]:
        at, begun = manifest.length, set[bytes]()
        for index in self.files:
            entry = manifest.entries[index]
            if isinstance(entry, TreeFile) and entry.length:
                start = manifest.start_of(index)
                # What has come of a digest is the beginning of the first file that has it, and of no other.
                yield at, start + (marked(gathering, entry) if entry.sha256 not in begun else 0)
                begun.add(entry.sha256)
                at = start + entry.length
        yield at, manifest.size


class Planning:
    """Compares a manifest with a directory."""

    def __init__(self, manifest: Manifest, held: HeldTree, told: str, *, is_empty: bool = False) -> None:
        self._manifest, self._held, self._told = manifest, held, told
        self._plan = TreePlan(directories=[], files=[], links=[], known=[])
        #: Directories in which nothing is.
        self._missing = {0} if is_empty else set()
        self._in_the_way: list[str] = []
        self._candidates: list[int] = []

    def run(self) -> TreePlan:
        """Give what is to be done. Raises TransferFailed for what is in the way, and OSError."""
        for index in range(1, len(self._manifest.entries)):
            self._judge(index)
        if self._in_the_way:
            raise self._refusal()
        plan = self._plan
        for index in self._candidates:
            (plan.known if self._has(index) else plan.files).append(index)
        plan.files.sort()
        return plan

    def _judge(self, index: int) -> None:
        entry = self._manifest.entries[index]
        found = None
        if entry.parent not in self._missing:
            with self._naming(index):
                found = look_at(entry.name, self._held.parent(index))
        match entry:
            case TreeDirectory():
                self._judge_directory(index, found)
            case TreeFile():
                self._judge_file(index, entry, found)
            case TreeLink() if not self._is_link(index, entry, found):
                self._plan.links.append(index)

    def _judge_directory(self, index: int, found: os.stat_result | None) -> None:
        if found is None:
            self._missing.add(index)
            self._plan.directories.append(index)
        elif not stat.S_ISDIR(found.st_mode):
            self._missing.add(index)
            self._block(index, "is no directory there")

    def _judge_file(self, index: int, entry: TreeFile, found: os.stat_result | None) -> None:
        if found is not None and stat.S_ISDIR(found.st_mode):
            self._block(index, "is a directory there")
        elif found is not None and _is_alone(found) and found.st_size == entry.size:
            self._candidates.append(index)
        else:
            self._plan.files.append(index)

    def _is_link(self, index: int, entry: TreeLink, found: os.stat_result | None) -> bool:
        if found is not None and stat.S_ISDIR(found.st_mode):
            self._block(index, "is a directory there")
        if found is None or not stat.S_ISLNK(found.st_mode) or found.st_mtime_ns != entry.mtime_ns:
            return False
        return os.readlink(entry.name, dir_fd=self._held.parent(index)) == entry.target

    def _has(self, index: int) -> bool:
        entry = self._manifest.entries[index]
        with contextlib.suppress(FileNotFoundError, PermissionError):
            file = self._held.open_file(index)
            try:
                return isinstance(entry, TreeFile) and is_content(file, entry)
            finally:
                os.close(file)
        return False

    def _block(self, index: int, how: str) -> None:
        if len(self._in_the_way) <= _MOST_NAMED:
            self._in_the_way.append(f"{self._manifest.told(index)} {how}")

    def _refusal(self) -> TransferFailed:
        named = "; ".join(self._in_the_way[:_MOST_NAMED]) + ("; …" if len(self._in_the_way) > _MOST_NAMED else "")
        text = f"{self._told}: {named}. Nothing was changed; move what is in the way, or name another place"
        return TransferFailed(ErrorCode.CONFLICT, text)

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = f"{self._told}/{self._manifest.told(index)[1:-1]}"
            raise


def _is_alone(found: os.stat_result) -> bool:
    """Say whether it is a file without another name: what has one is written anew, and the other stays as it is."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1
