"""Where received bytes land. A file has a partial one, the mark up to which that is durable, and a rename when its
digest is right.

One receiver at a time holds a partial file, by a lock that dies with its process, so that two can never mix their bytes
and what nobody holds can be told from what is at work. Everything here blocks. Knows neither peers nor messages.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from broker import durable, reserve
from broker.errors import RoomTaken, TransferFailed
from broker.transfer.gaps import NO_GAPS, Gaps
from broker.transfer.locks import open_locked
from schemas.errors import ErrorCode

#: Made durable and marked each time this much has come, bytes.
MARK_EVERY_BYTES = 1 << 20
#: How a partial file is called, and the mark beside it.
PART, MARK = ".part", ".mark"


class Landing(Protocol):
    """Where the bytes of one stream go, in order. Open from the first; ``close`` or ``discard`` comes last."""

    @property
    def name(self) -> str:
        """What it will be called, for a person."""

    @property
    def written(self) -> int:
        """How far the stream is there: at first as an earlier receiver has left it, and never within a gap."""

    @property
    def bound(self) -> int:
        """How far it can be written; its end, or less until what has come says where the rest goes."""

    @property
    def gaps(self) -> Gaps:
        """What of it before ``bound`` is not to be sent."""

    def write(self, batch: Sequence[bytes]) -> int:
        """Append; give how much is there. Raises OSError naming the file, and RoomTaken, with nothing lost."""

    def commit(self, sha256: str) -> None:
        """Have the whole of it where it belongs, durably. It stays held until ``close``.

        Raises TransferFailed where it is not what ``sha256`` says, and OSError; the target is as it was then.
        """

    def close(self) -> None:
        """Let go. What came is durable, and there for who opens it next; on a disk that fails, what was. Idempotent."""

    def discard(self) -> None:
        """Remove what came, unless it was committed, and let go. Idempotent."""


#: Opens the landing of a stream of so many bytes. Raises PartialTaken while another receiver holds it, RoomTaken where
#: what is missing has no room on the disk, OSError.
Open = Callable[[int], Landing]


class FileLanding:
    """See ``Landing``: a file, ``target``, which is whole or as it was."""

    def __init__(self, target: Path, partial: Path, size: int, kept: int | None = None) -> None:
        """Take ``partial`` up where whoever held it last has left it. Raises as ``Open`` says."""
        self._target, self._path = target, partial
        self._mark = partial.with_suffix(MARK)
        self._size, self._kept = size, kept
        self._digest = hashlib.sha256()
        self._written = 0
        self._is_committed = False
        #: Bytes that would survive a power cut.
        self.durable = 0
        durable.make_directory(partial.parent)
        self._file = open_locked(partial)
        try:
            with durable.naming(partial):
                self._take_up()
        except RoomTaken:
            self.close()
            raise
        except BaseException:
            self.discard()
            raise

    @property
    def name(self) -> str:
        """See ``Landing``."""
        return self._target.name

    @property
    def written(self) -> int:
        """See ``Landing``."""
        return self._written

    @property
    def bound(self) -> int:
        """See ``Landing``."""
        return self._size

    @property
    def gaps(self) -> Gaps:
        """See ``Landing``: a file comes whole."""
        return NO_GAPS

    def write(self, batch: Sequence[bytes]) -> int:
        """See ``Landing``. What has gathered is made durable; the disk's reserve is never touched, whoever fills it."""
        with durable.naming(self._path):
            self._demand(sum(len(data) for data in batch if not durable.is_zeros(data)))
            for data in batch:
                durable.write_sparse(self._file, data, self._written)
                self._digest.update(data)
                self._written += len(data)
            if self._written - self.durable >= MARK_EVERY_BYTES:
                self._make_durable()
        return self._written

    def read_all(self, sha256: str) -> bytes:
        """Give the whole of what came, which is small. Raises TransferFailed where it is not what ``sha256`` says."""
        if self._digest.hexdigest() != sha256:
            raise TransferFailed(ErrorCode.CONFLICT, "the SHA-256 of what came is not the one offered; send it again")
        return os.pread(self._file, self._size, 0)

    def commit(self, sha256: str) -> None:
        """See ``Landing``."""
        if self._digest.hexdigest() != sha256:
            raise TransferFailed(ErrorCode.CONFLICT, "the SHA-256 of what came is not the one offered; send it again")
        durable.make_directory(self._target.parent)
        with durable.naming(self._path):
            os.fsync(self._file)
            if os.fstat(self._file).st_size != self._size:
                raise TransferFailed(ErrorCode.CONFLICT, f"{self._path} was changed while it came; send it again")
            self._path.replace(self._target)
            self._is_committed = True
            durable.sync_directory(self._target.parent)
        self.durable = self._written
        self._mark.unlink(missing_ok=True)

    def close(self) -> None:
        """See ``Landing``."""
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            self._make_durable()
        os.close(self._file)
        self._file = -1

    def discard(self) -> None:
        """See ``Landing``."""
        try:
            if self._file >= 0:
                self._mark.unlink(missing_ok=True)
            if self._file >= 0 and not self._is_committed:
                self._path.unlink(missing_ok=True)
                self.durable = self._written
        finally:
            self.close()

    def _take_up(self) -> None:
        """Begin where the mark is: what is beyond it may not be what was sent."""
        marked = min(self._read_mark(), os.fstat(self._file).st_size, self._size)
        os.ftruncate(self._file, marked)
        self._check_room(self._size - marked)
        while self._written < marked:
            data = os.pread(self._file, min(MARK_EVERY_BYTES, marked - self._written), self._written)
            self._digest.update(data)
            self._written += len(data)
        self.durable = marked

    def _check_room(self, missing: int) -> None:
        """Refuse before the first byte what could not be taken to the last; what is there stays for later."""
        disk = reserve.look(self._file, self._kept)
        if missing > disk.usable:
            self._refuse(f"{missing} bytes are to come, {disk.told()}; free some space there")

    def _demand(self, need: int) -> None:
        disk = reserve.look(self._file, self._kept)
        if disk.usable < need <= disk.free:
            self._refuse(f"{need} bytes have come, {disk.told()}")
        reserve.demand(self._file, need, self._kept)

    def _refuse(self, why: str) -> NoReturn:
        """Raise RoomTaken; of a file of which nothing has ever come nothing stays."""
        if not os.fstat(self._file).st_size:
            self._path.unlink(missing_ok=True)
            self._mark.unlink(missing_ok=True)
        raise RoomTaken(ErrorCode.STORE, f"no room for {self._path}: {why}")

    def _make_durable(self) -> None:
        if self.durable < self._written:
            os.fdatasync(self._file)
            self._write_mark()
            self.durable = self._written

    def _read_mark(self) -> int:
        try:
            return int(self._mark.read_text() or "0")
        except (FileNotFoundError, ValueError):
            return 0

    def _write_mark(self) -> None:
        """In place and of one length: less than a sector, it is there whole or as it was; a head of it says less."""
        descriptor = os.open(self._mark, os.O_WRONLY | os.O_CREAT, durable.PRIVATE)
        try:
            durable.write_all(descriptor, b"%020d" % self._written, 0)
        finally:
            os.close(descriptor)


def into_file(target: Path, partial: Path, *, kept: int | None = None) -> Open:
    """Have a file land in ``target`` by way of ``partial``, on the same disk. ``kept``: see ``reserve.DiskRoom``."""
    return lambda size: FileLanding(target, partial, size, kept)
