"""A file on its way in, on the disk: the bytes so far, and the mark up to which they are durable.

One receiver at a time holds it, by a lock that dies with its process, so that two can never mix their bytes and what
nobody holds can be told from what is at work. Everything here blocks. Knows neither peers nor messages.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from broker import durable, reserve
from broker.errors import PartialTaken, RoomTaken, TransferFailed
from schemas.errors import ErrorCode

#: Made durable and marked each time this much has come, bytes.
MARK_EVERY_BYTES = 1 << 20
#: How a partial file is called, and the mark beside it.
PART, MARK = ".part", ".mark"


class Partial:
    """See the module. ``open`` comes first; ``close`` last, also after a failure."""

    def __init__(self, path: Path, size: int, kept: int | None = None) -> None:
        """``kept``: see ``reserve.DiskRoom``."""
        self._path, self._size, self._kept = path, size, kept
        self._mark = path.with_suffix(MARK)
        self._file = -1
        self._digest = hashlib.sha256()
        #: Bytes that are there.
        self.written = 0
        #: Bytes that would survive a power cut.
        self.durable = 0

    def open(self) -> None:
        """Take the file up where whoever held it last has left it.

        Raises PartialTaken while another receiver holds it, RoomTaken where what is missing has no room on the disk,
        OSError.
        """
        durable.make_directory(self._path.parent)
        self._file = hold(self._path)
        marked = min(self._read_mark(), os.fstat(self._file).st_size, self._size)
        os.ftruncate(self._file, marked)
        self._check_room(self._size - marked)
        while self.written < marked:
            data = os.pread(self._file, min(MARK_EVERY_BYTES, marked - self.written), self.written)
            self._digest.update(data)
            self.written += len(data)
        self.durable = marked

    def write(self, batch: Sequence[bytes]) -> int:
        """Append, and make durable what has gathered; give how much is there. Raises OSError naming the file, of a disk
        that is full, and RoomTaken before its reserve is touched, whoever else has filled it meanwhile."""
        with durable.naming(self._path):
            self._demand(sum(len(data) for data in batch if not durable.is_zeros(data)))
            for data in batch:
                durable.write_sparse(self._file, data, self.written)
                self._digest.update(data)
                self.written += len(data)
            if self.written - self.durable >= MARK_EVERY_BYTES:
                self.mark()
        return self.written

    def mark(self) -> None:
        """Make durable what is there, and mark it: who comes after goes on from here. Raises OSError."""
        if self._file >= 0 and self.durable < self.written:
            os.fdatasync(self._file)
            self._write_mark()
            self.durable = self.written

    def keep(self, target: Path, sha256: str) -> None:
        """Give the whole file its name, durably. It stays held until ``close``.

        Raises TransferFailed where it is not what ``sha256`` says, and OSError; nothing under the name changed then.
        """
        if self._digest.hexdigest() != sha256:
            raise TransferFailed(ErrorCode.CONFLICT, "the SHA-256 of what came is not the one offered; send it again")
        durable.make_directory(target.parent)
        with durable.naming(self._path):
            os.fsync(self._file)
            if os.fstat(self._file).st_size != self._size:
                raise TransferFailed(ErrorCode.CONFLICT, f"{self._path} was changed while it came; send it again")
            self._path.replace(target)
            durable.sync_directory(target.parent)
        self.durable = self.written
        self._mark.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove what came, if it is ours. Idempotent."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            self._mark.unlink(missing_ok=True)

    def forget_empty(self) -> None:
        """Remove it if nothing of it has ever come."""
        if self._file >= 0 and not os.fstat(self._file).st_size:
            self.forget()

    def close(self) -> None:
        """Let go of the file; what came stays. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _demand(self, need: int) -> None:
        disk = reserve.look(self._file, self._kept)
        if disk.usable < need <= disk.free:
            raise RoomTaken(ErrorCode.STORE, f"no room for {self._path}: {need} bytes have come, {disk.told()}")
        reserve.demand(self._file, need, self._kept)

    def _check_room(self, missing: int) -> None:
        """Refuse before the first byte what could not be taken to the last; what is there stays for later."""
        disk = reserve.look(self._path.parent, self._kept)
        if missing > disk.usable:
            text = f"no room for {self._path}: {missing} bytes are to come, {disk.told()}; free some space there"
            raise RoomTaken(ErrorCode.STORE, text)

    def _read_mark(self) -> int:
        try:
            return int(self._mark.read_text() or "0")
        except (FileNotFoundError, ValueError):
            return 0

    def _write_mark(self) -> None:
        """In place and of one length: less than a sector, it is there whole or as it was; a head of it says less."""
        descriptor = os.open(self._mark, os.O_WRONLY | os.O_CREAT, durable.PRIVATE)
        try:
            durable.write_all(descriptor, b"%020d" % self.written, 0)
        finally:
            os.close(descriptor)


def hold(path: Path) -> int:
    """Open a file, new or not, and lock it for as long as it is open. Raises PartialTaken, OSError.

    Who held it last may have renamed or removed it between our opening and our lock: then it is opened anew.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, durable.PRIVATE)
        try:
            lock(file)
            if _is_at(path, file):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def lock(file: int) -> None:
    """Lock an open file until it is closed, by us or by our end. Raises PartialTaken while another holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PartialTaken(ErrorCode.CONFLICT, "another receiver is at work on this file") from error


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
