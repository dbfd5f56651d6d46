"""The directories of a spool, and which spool it is: one that is away, or was put in another's place, ends no job.

Who may enter the spool may read what is told in it: that is its own directory's mode, which is the operator's.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from adapters.errors import SourceUnavailable
from adapters.sources.contract import GridJob
from broker import durable
from broker.trees.held import open_regular_below

NEW, FILES, TAKEN, OUT, DONE = "new", "files", "taken", "out", "done"
#: Says which spool it is.
MARK = ".spool"
_MARK_BYTES = 16
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644


class SpoolTree:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._was_there = False

    def make(self) -> bytes:
        """Make what is missing, but for what the spool is in, and give its mark. One that was there is not made again:
        it is away. Raises OSError."""
        if self._was_there:
            return self.mark()
        self.path.mkdir(exist_ok=True)
        for name in (NEW, FILES, TAKEN, OUT, DONE):
            directory = self.path / name
            if not directory.is_dir():
                directory.mkdir(exist_ok=True)
                directory.chmod(_DIRECTORY_MODE)
        mark = self.path / MARK
        if not mark.exists():
            tell(mark.with_name(own := f"{MARK}.{secrets.token_hex(4)}"), secrets.token_hex(_MARK_BYTES).encode())
            try:
                os.link(mark.with_name(own), mark)
            except FileExistsError:
                pass  # another adapter was first
            finally:
                mark.with_name(own).unlink()
        self._was_there = True
        return self.mark()

    def mark(self) -> bytes:
        """Say which spool it is. Raises OSError where it is away."""
        with os.fdopen(open_regular_below(self.path, MARK), "rb") as file:
            return file.read(2 * _MARK_BYTES)

    def demand_that_of(self, job: GridJob) -> None:
        """Raise SourceUnavailable if a job was taken from another spool, or this one is away; OSError too."""
        if job.data and job.data != self.mark():
            raise SourceUnavailable(f"{self.path} is another spool than that of job {job.id}: put that one back")


def tell(path: Path, content: bytes) -> None:
    """Put something where others read it, durably, whole or not at all. Raises OSError."""
    durable.replace(path, content)
    path.chmod(_FILE_MODE)


def tell_lightly(path: Path, content: bytes) -> None:
    """As ``tell`` in a directory where strangers write, but for a power cut: it is said again. Raises OSError."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
    try:
        os.fchmod(descriptor, _FILE_MODE)
        durable.write_all(descriptor, content)
    finally:
        os.close(descriptor)


def let_in(directory: Path) -> None:
    """Have others read all that is below a directory, and durably. Raises OSError."""
    directory.chmod(_DIRECTORY_MODE)
    for path in directory.rglob("*"):
        path.chmod(_DIRECTORY_MODE if path.is_dir() else _FILE_MODE)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        durable.sync_file_system(descriptor)
    finally:
        os.close(descriptor)
