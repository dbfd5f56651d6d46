"""The files that this host keeps for its guests, by digest: bounded in bytes, on a disk of which a part stays free.

Both hold for what comes as well: a file is booked with its whole size from before its first byte until it is whole or
given up, and what was given up counts with what of it is there.
A file has its digest and its size in its name, and has it only once its bytes were verified and are on the disk: so the
next agent believes it without reading it again. What was used longest ago goes first; what is being handed out stays.
Blocking, and for several threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from broker.errors import TransferFailed
from broker.transfer.landing import PART, FileLanding, Landing, Open
from broker.transfer.leftovers import remove_left_behind, remove_unheld
from schemas.errors import ErrorCode

log = logging.getLogger(__name__)

#: A fetch that broke off can go on for this long, seconds; so many are kept at most.
KEEP_PARTIAL_S = 86400.0
MOST_PARTIALS = 16
#: Files that are kept at most, however small.
MOST_FILES = 4096
#: Of a small disk a tenth is spared at most.
_SMALL = 10
#: The kernel counts a file's blocks so, bytes.
_BLOCK_BYTES = 512


class KeptInput(Struct, frozen=True):
    """A verified file."""

    sha256: str
    size: int
    path: Path


class _Booking(Struct, frozen=True, eq=False):
    """A file that comes."""

    sha256: str
    size: int


class _BookedLanding(FileLanding):
    """Releases its booking once it is closed."""

    def __init__(self, target: Path, partial: Path, size: int, release: Callable[[], None]) -> None:
        self._release = release
        super().__init__(target, partial, size)

    def close(self) -> None:
        """See ``Landing``."""
        try:
            super().close()
        finally:
            self._release()


class InputStore:
    """See the module."""

    def __init__(self, directory: Path, *, limit_bytes: int, spare_bytes: int) -> None:
        self._directory = directory
        self.limit_bytes, self._spare_bytes = limit_bytes, spare_bytes
        self._lent: Counter[str] = Counter()
        self._booked: set[_Booking] = set()
        self._lock = threading.Lock()
        #: Files that went to make room.
        self.evictions = 0

    def open(self) -> None:
        """Make the directory, for this user alone, and remove what is no file of ours. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        with self._lock:
            self._clear_partials()
            self._let_go(0, "")

    def find(self, sha256: str) -> KeptInput | None:
        """Give a file, used just now; one that has not its size any more is removed, and not found. Raises OSError."""
        with self._lock:
            for kept in self._files(f"{sha256}.*"):
                if kept.path.stat().st_size == kept.size:
                    os.utime(kept.path)
                    return kept
                log.error("kept input damaged, removed", extra={"path": str(kept.path)})
                kept.path.unlink(missing_ok=True)
        return None

    @contextlib.contextmanager
    def lend(self, sha256: str) -> Iterator[None]:
        """Keep a file, there or yet to come, for as long as the block lasts."""
        with self._lock:
            self._lent[sha256] += 1
        try:
            yield
        finally:
            with self._lock:
                self._lent[sha256] -= 1
                self._lent += Counter()

    def landing(self, sha256: str) -> Open:
        """Let a file land under its digest. Opening it raises TransferFailed for what does not fit the limit, or for
        which no room can be made."""

        def land(size: int) -> Landing:
            booking = self._book(sha256, size)

            def release() -> None:
                with self._lock:
                    self._booked.discard(booking)

            try:
                return _BookedLanding(self._path(sha256, size), self._partial(sha256), size, release)
            except BaseException:
                release()
                raise

        return land

    def discard_damaged(self, kept: KeptInput) -> None:
        """Remove a file that has not the digest of its name. Raises OSError."""
        log.error("kept input damaged, removed", extra={"path": str(kept.path)})
        kept.path.unlink(missing_ok=True)

    def kept(self) -> tuple[int, int]:
        """Give how many files are kept, and their bytes."""
        with self._lock:
            sizes = [kept.size for kept in self._files()]
        return len(sizes), sum(sizes)

    def _path(self, sha256: str, size: int) -> Path:
        return self._directory / f"{sha256}.{size}"

    def _partial(self, sha256: str) -> Path:
        return self._directory / f".{sha256}{PART}"

    def _book(self, sha256: str, size: int) -> _Booking:
        """Make room for a file, and keep it for that. Raises TransferFailed where there is none to be made."""
        if size > self.limit_bytes:
            text = f"{size} bytes are more than this host keeps of inputs, {self.limit_bytes} (inputs_mib)"
            raise TransferFailed(ErrorCode.TOO_LARGE, text)
        with self._lock:
            self._clear_partials()
            self._let_go(size, sha256)
            used, left = self._used(sha256), self._left(size, sha256)
            if used + size > self.limit_bytes:
                text = f"{used} of {self.limit_bytes} bytes (inputs_mib) are in use by guests just now, or on their way"
                raise TransferFailed(ErrorCode.STORE, text)
            if left < 0:
                raise TransferFailed(ErrorCode.STORE, self._no_room(size, sha256))
            booking = _Booking(sha256, size)
            self._booked.add(booking)
        return booking

    def _used(self, coming: str) -> int:
        """Give how much all but ``coming`` takes of the limit, once it is whole."""
        there = [*self._files(), *self._idle(coming)]
        return sum(one.size for one in there) + sum(one.size for one in self._others(coming))

    def _left(self, size: int, coming: str) -> int:
        """Give what the disk has left above what is spared, once this and all that comes is whole."""
        free, spare = self._disk()
        return free - spare - self._owed(coming) - max(0, size - _taken(self._partial(coming)))

    def _owed(self, coming: str) -> int:
        """Give what all else that comes has yet to take of the disk."""
        return sum(max(0, one.size - _taken(self._partial(one.sha256))) for one in self._others(coming))

    def _no_room(self, size: int, coming: str) -> str:
        free, spare = self._disk()
        text = f"{self._directory}: {size} bytes are to come, {free} are free, of which {spare} stay free"
        owed = self._owed(coming)
        return f"{text}{f' and {owed} are for others on their way' if owed else ''} (inputs_spare_mib)"

    def _others(self, coming: str) -> list[_Booking]:
        """List what else comes, and is not whole yet."""
        others = [one for one in self._booked if one.sha256 != coming]
        return [one for one in others if not self._path(one.sha256, one.size).exists()]

    def _idle(self, coming: str) -> Iterator[KeptInput]:
        """Give the files that are there in part and that nobody brings on."""
        booked = {coming, *(one.sha256 for one in self._booked)}
        for path in self._directory.glob(f".*{PART}"):
            if path.stem[1:] not in booked:
                yield KeptInput(path.stem[1:], _taken(path), path)

    def _disk(self) -> tuple[int, int]:
        usage = shutil.disk_usage(self._directory)
        return usage.free, min(self._spare_bytes, usage.total // _SMALL)

    def _let_go(self, need_bytes: int, coming: str) -> None:
        """Remove what was used longest ago, whole or in part, until ``need_bytes`` more fit, or nothing is left that
        may go."""
        files, idle = list(self._files()), list(self._idle(coming))
        total, count = self._used(coming), len(files)
        for one in sorted([*files, *idle], key=lambda one: one.path.stat().st_mtime):
            has_room = total + need_bytes <= self.limit_bytes and self._left(need_bytes, coming) >= 0
            if has_room and count < MOST_FILES:
                return
            if one in idle:
                total -= one.size * remove_unheld(one.path)
            elif one.sha256 not in self._lent or one.sha256 == coming:
                one.path.unlink(missing_ok=True)
                total, count = total - one.size, count - 1
                self.evictions += 1

    def _clear_partials(self) -> None:
        partials = self._directory.glob(".*")
        remove_left_behind(partials, now_s=time.time(), keep_s=KEEP_PARTIAL_S, most=MOST_PARTIALS)

    def _files(self, pattern: str = "[0-9a-f]*") -> Iterator[KeptInput]:
        for path in self._directory.glob(pattern):
            sha256, _, size = path.name.partition(".")
            if size.isdecimal():
                yield KeptInput(sha256, int(size), path)


def _taken(path: Path) -> int:
    """Give what a file takes of the disk, bytes, its holes left out; one that is not there takes nothing."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, found.st_blocks * _BLOCK_BYTES)
