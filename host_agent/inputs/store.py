"""The files that this host keeps for its guests, by digest: bounded in bytes, on a disk of which a part stays free.

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
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from broker.errors import TransferFailed
from broker.transfer.landing import Landing, Open, into_file
from broker.transfer.leftovers import remove_left_behind
from schemas.errors import ErrorCode

log = logging.getLogger(__name__)

#: A fetch that broke off can go on for this long, seconds; so many are kept at most.
KEEP_PARTIAL_S = 86400.0
MOST_PARTIALS = 16
#: Files that are kept at most, however small.
MOST_FILES = 4096
#: Of a small disk a tenth is spared at most.
_SMALL = 10


class KeptInput(Struct, frozen=True):
    """A verified file."""

    sha256: str
    size: int
    path: Path


class InputStore:
    """See the module."""

    def __init__(self, directory: Path, *, limit_bytes: int, spare_bytes: int) -> None:
        self._directory = directory
        self.limit_bytes, self._spare_bytes = limit_bytes, spare_bytes
        self._lent: Counter[str] = Counter()
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
            self._make_room(sha256, size)
            return into_file(self._path(sha256, size), self._directory / f".{sha256}.part")(size)

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

    def _make_room(self, sha256: str, size: int) -> None:
        if size > self.limit_bytes:
            text = f"{size} bytes are more than this host keeps of inputs, {self.limit_bytes} (inputs_mib)"
            raise TransferFailed(ErrorCode.TOO_LARGE, text)
        with self._lock:
            self._clear_partials()
            self._let_go(size, sha256)
            kept = sum(one.size for one in self._files())
            free, spare = self._disk()
        if kept + size > self.limit_bytes:
            text = f"{kept} of {self.limit_bytes} bytes (inputs_mib) are in use by guests just now"
            raise TransferFailed(ErrorCode.STORE, text)
        if free - size < spare:
            text = f"{self._directory}: {size} bytes are to come, {free} are free, of which {spare} stay free"
            raise TransferFailed(ErrorCode.STORE, f"{text} (inputs_spare_mib)")

    def _disk(self) -> tuple[int, int]:
        usage = shutil.disk_usage(self._directory)
        return usage.free, min(self._spare_bytes, usage.total // _SMALL)

    def _let_go(self, need_bytes: int, coming: str) -> None:
        """Remove what was used longest ago until ``need_bytes`` more fit, or nothing is left that may go."""
        aged = sorted(self._files(), key=lambda one: one.path.stat().st_mtime)
        total, count = sum(one.size for one in aged), len(aged)
        for one in aged:
            free, spare = self._disk()
            has_room = total + need_bytes <= self.limit_bytes and free - need_bytes >= spare
            if has_room and count < MOST_FILES:
                return
            if one.sha256 not in self._lent or one.sha256 == coming:
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
