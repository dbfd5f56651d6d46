"""The receiving end at work: chunks from a queue to a file that is whole or not there.

Writing and hashing happen in a thread; the loop only judges chunks and grants. Every MiB is made durable and marked
beside the partial file, so that a receiver that was killed goes on from the mark. The target appears by one rename,
after the SHA-256 of the whole was found right.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from broker.errors import TransferFailed
from broker.transfer.core import Inbound
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileChunk, FileDone, FileOffer

#: Made durable and marked each time this much has come, bytes.
MARK_EVERY_BYTES = 1 << 20
#: Chunks taken and not yet written may be this much together, bytes.
BACKLOG_BYTES = 4 << 20
#: Silence after which the run is taken as broken and a new epoch begun, seconds.
STALL_S = 3.0
#: Silences in a row after which a receiver that only waits takes the sender as gone.
MOST_STALLS = 10


class _SenderGone(TransferFailed):
    """The sender was stopped or is silent: whoever offers the file again goes on with the partial file."""


class Receiving:
    """One file coming in. ``tell`` sends a message to the peer and may lose it."""

    def __init__(
        self,
        offer: FileOffer,
        target: Path,
        partial: Path,
        tell: Callable[[Message], None],
        *,
        stall_s: float = STALL_S,
        most_stalls: int | None = MOST_STALLS,
        again: Callable[[], None] | None = None,
        progress: Callable[[int], None] | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``confirm`` runs when the target is whole, before the sender is told; what it raises fails the transfer.

        ``most_stalls`` None: wait for the sender for ever, for a receiver that asks again at each silence.
        """
        self._confirm = confirm
        self._offer = offer
        self._target, self._partial = target, partial
        self._mark = partial.with_suffix(".mark")
        self._tell = tell
        self._again = again
        self._progress = progress or (lambda _: None)
        self._stall_s, self._most_stalls = stall_s, most_stalls
        self._stalls = 0
        self._core = Inbound(transfer=offer.id, size=offer.size)
        self._inbox: list[bytes] = []
        self._written = 0
        self._wake = asyncio.Event()
        self._failure: TransferFailed | None = None
        #: The sender has been silent for a while: another one may take over.
        self.is_stalled = False
        self._digest = hashlib.sha256()
        self._file = -1

    @property
    def dropped(self) -> int:
        """Chunks that did not count."""
        return self._core.dropped

    async def run(self) -> None:
        """Take the whole file. Post-condition: ``target`` holds it, durable. Raises TransferFailed, ``target`` as it
        was; a full disk is one. After a TIMEOUT the partial file stays, and the same transfer can go on later."""
        try:
            await asyncio.to_thread(self._open)
            self._begin(self._core.durable)
            while self._written < self._core.size:
                await self._step()
            await asyncio.to_thread(self._finish)
            if self._confirm is not None:
                await self._confirm()
        except OSError as error:
            raise self._abort(ErrorCode.STORE, f"cannot write {self._target.name!r}: {error.strerror}") from error
        except _SenderGone:
            raise
        except TransferFailed as failure:
            raise self._abort(failure.code, str(failure)) from failure
        finally:
            self._close()
        self._tell(FileDone(transfer=self._offer.id))

    def on_chunk(self, chunk: FileChunk) -> None:
        """Judge a chunk that came."""
        if self._core.take(chunk):
            self._inbox.append(chunk.data)
            self.is_stalled = False
            self._stalls = 0
            self._wake.set()
            self._grant_if_wanted()
        elif self._core.is_broken_by(chunk):
            self._begin(self._core.taken)

    def again(self) -> None:
        """Begin a new epoch where this one got to: the sender lost touch, or the link is new."""
        self._stalls = 0
        if self._file >= 0:
            self._begin(self._core.taken)

    def on_abort(self, abort: FileAbort) -> None:
        """The sender gives up. One that was stopped is silent to a receiver that asks again: another may serve it."""
        if abort.code == ErrorCode.INTERRUPTED and self._most_stalls is None:
            self.is_stalled = True
            return
        failure = _SenderGone if abort.code == ErrorCode.INTERRUPTED else TransferFailed
        self._failure = failure(abort.code, abort.message)
        self._wake.set()

    async def _step(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), self._stall_s)
        except TimeoutError:
            self._on_silence()
            return
        self._wake.clear()
        if self._failure is not None:
            raise self._failure
        batch, self._inbox = self._inbox, []
        self._written = await asyncio.to_thread(self._write, batch)
        self._progress(self._written)
        self._grant_if_wanted()

    def _on_silence(self) -> None:
        self.is_stalled = True
        self._stalls += 1
        if self._most_stalls is not None and self._stalls >= self._most_stalls:
            silent_s = self._stalls * self._stall_s
            raise _SenderGone(ErrorCode.TIMEOUT, f"{self._target.name!r}: the sender is silent for {silent_s:.0f} s")
        self._begin(self._core.taken)
        if self._again is not None:
            self._again()

    def _begin(self, offset: int) -> None:
        self._tell(self._core.begin(offset, int(time.time() * 1000)))

    def _grant_if_wanted(self) -> None:
        if self._core.wants_grant() and self._core.taken - self._written <= BACKLOG_BYTES:
            self._tell(self._core.grant())

    def _open(self) -> None:
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o600)
        durable = min(self._read_mark(), os.fstat(self._file).st_size, self._core.size)
        os.ftruncate(self._file, durable)
        while self._written < durable:
            data = os.pread(self._file, min(MARK_EVERY_BYTES, durable - self._written), self._written)
            self._digest.update(data)
            self._written += len(data)
        self._core.durable = durable

    def _read_mark(self) -> int:
        try:
            return int(self._mark.read_text() or "0")
        except (FileNotFoundError, ValueError):
            return 0

    def _write(self, batch: list[bytes]) -> int:
        offset = self._written
        for data in batch:
            os.pwrite(self._file, data, offset)
            self._digest.update(data)
            offset += len(data)
        if offset - self._core.durable >= MARK_EVERY_BYTES:
            os.fdatasync(self._file)
            self._write_mark(offset)
            self._core.durable = offset
        return offset

    def _write_mark(self, offset: int) -> None:
        """In place and of one length: less than a sector, it is there whole or as it was."""
        descriptor = os.open(self._mark, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, b"%020d" % offset, 0)
        finally:
            os.close(descriptor)

    def _finish(self) -> None:
        if self._digest.hexdigest() != self._offer.sha256:
            self._forget()
            raise TransferFailed(ErrorCode.CONFLICT, "the SHA-256 of what came is not the one offered; send it again")
        os.fsync(self._file)
        self._partial.replace(self._target)
        self._mark.unlink(missing_ok=True)

    def _forget(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    def _abort(self, code: ErrorCode, message: str) -> TransferFailed:
        self._forget()
        self._tell(FileAbort(transfer=self._offer.id, code=code, message=message))
        return TransferFailed(code, message)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
