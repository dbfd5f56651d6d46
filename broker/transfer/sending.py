"""The sending end at work: a source to a queue, never beyond what the receiver has granted.

It offers until it hears of the receiver, sends while the window allows, and offers again after a silence, which finds
out how far the receiver came, or another receiver.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from broker.daemon.wakeup import Wakeup
from broker.errors import TransferFailed
from broker.transfer.core import Outbound, Pace, PeerPatience
from broker.transfer.source import Source
from broker.transfer.threads import in_thread
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import MAX_WINDOW_BYTES, MOST_WAITS, FileAbort, FileChunk, FileOffer, FileWindow

#: Silence of the receiver after which the file is offered again, seconds; each further one is twice as long.
SILENCE_S = 4.0
#: The longest of them, in first ones: 15 s, below ``scheduler.ASKER_GONE_S``.
LONGEST_SILENCE = 3.75
#: Offers in a row without an answer until the transfer is given up: five minutes.
MOST_OFFERS = 21
#: Read at a time for a digest, bytes.
_BLOCK_BYTES = 1 << 20


class Sending:
    """One source going out. ``offer`` publishes the offer; ``send`` a chunk, and gives its confirm."""

    def __init__(
        self,
        offer: FileOffer,
        source: Source,
        send: Callable[[FileChunk], asyncio.Future[None]],
        tell: Callable[[Message], None],
        *,
        silence_s: float = SILENCE_S,
        most_offers: int = MOST_OFFERS,
        window_s: float | None = None,
        progress: Callable[[int], None] | None = None,
        is_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        """``window_s``: the receiver takes a window in that time, or counts as gone; for one receiver alone, which
        never begins anew. While ``is_heard`` says that our words do not reach the broker, neither is its fault."""
        self._offer, self._source = offer, source
        self._send, self._tell = send, tell
        self._patience = PeerPatience(first_s=silence_s, most_times=LONGEST_SILENCE)
        self._most_offers = most_offers
        self._unanswered = self._waits = 0
        self._is_heard = is_heard
        self._progress = progress or (lambda _: None)
        self._core = Outbound(transfer=offer.id, size=offer.size)
        #: Its word that all is there counts as one byte more.
        self._pace = Pace(size=offer.size + 1, window_s=window_s or math.inf, since_s=time.monotonic())
        #: How far the receiver has said to be.
        self._reached = 0
        self._wakeup = Wakeup()
        #: Bytes that the broker has not confirmed, and what tells that it has some of them.
        self._unconfirmed, self._confirmed = 0, Wakeup()
        self._done = False
        self._failure: TransferFailed | None = None

    @property
    def sent_bytes(self) -> int:
        """All that was sent, what was sent again included."""
        return self._core.sent

    async def run(self) -> None:
        """Send the whole file. Post-condition: the receiver has it, durable. Raises TransferFailed.

        When cancelled it tells the receiver, which would wait otherwise.
        """
        try:
            await in_thread(self._source.open)
            await self._run()
        finally:
            await in_thread(self._source.close)

    async def _run(self) -> None:
        try:
            self._tell(self._offer)
            while not self._done:
                if self._failure is not None:
                    raise self._failure
                await self._hear()
                await self._send_granted()
        except OSError as error:
            self._give_up(ErrorCode.STORE, f"cannot read {self._source.name!r}: {error.strerror}")
            raise TransferFailed(ErrorCode.STORE, f"cannot read {self._source.name!r}: {error.strerror}") from error
        except asyncio.CancelledError:
            if not self._done:
                self._give_up(ErrorCode.INTERRUPTED, f"the sender of {self._source.name!r} was stopped")
            raise

    def on_window(self, window: FileWindow) -> None:
        """The receiver grants, acknowledges or starts anew."""
        self._core.on_window(window)
        self._reached = max(self._reached, min(window.offset, self._core.size))
        self._wakeup.wake()

    def on_wait(self) -> None:
        """The receiver is there, and not ready yet: believed so often, and no more."""
        self._waits += 1
        if self._waits <= MOST_WAITS:
            self._wakeup.wake()

    def again(self) -> None:
        """Offer again: the link is new, and the receiver may need a while for its own."""
        self._unanswered = 0
        self._tell(self._offer)

    def on_done(self) -> None:
        """The receiver has it."""
        self._done = True
        self._wakeup.wake()
        self._confirmed.wake()

    def on_abort(self, abort: FileAbort) -> None:
        """The receiver gives up."""
        self._failure = TransferFailed(abort.code, abort.message)
        self._wakeup.wake()
        self._confirmed.wake()

    async def _hear(self) -> None:
        """Wait for a word of the receiver; after a silence offer again. Raises TransferFailed after too many, and for
        words without an end."""
        self._check_pace()
        if not await self._wakeup.sleep(self._patience.wait_s):
            self._on_silence()
            return
        self._patience.regain()
        self._unanswered = 0
        self._progress(self._core.next)

    def _on_silence(self) -> None:
        if self._is_heard():
            self._unanswered += 1
            self._patience.lose()
        if self._unanswered >= self._most_offers:
            text = f"nobody takes {self._source.name!r}: the receiver is silent"
            raise TransferFailed(ErrorCode.TIMEOUT, text)
        self._tell(self._offer)

    def _check_pace(self) -> None:
        now_s = time.monotonic()
        if not self._is_heard():
            self._pace.begin(self._reached, now_s)
        elif not self._pace.is_kept(self._reached, now_s):
            text = f"nobody takes {self._source.name!r}: no window of it in {self._pace.window_s:.0f} s"
            raise TransferFailed(ErrorCode.TIMEOUT, text)

    async def _send_granted(self) -> None:
        """Read all that is granted at once, at most a window: a hop to a thread for each chunk would cost as much."""
        while await self._may_send() and (pieces := list(iter(self._core.piece, None))):
            epoch = self._core.epoch
            chunks = await in_thread(self._read, pieces)
            if len(chunks) < len(pieces):
                self._give_up(ErrorCode.CONFLICT, f"{self._source.name!r} became shorter while it was sent")
                return
            if epoch == self._core.epoch and not self._has_ended:
                self._send_all(chunks)

    async def _may_send(self) -> bool:
        """Wait while the broker has more than a window to take: how fast grants come the receiver decides. Say whether
        there is still somebody to send to. Raises TransferFailed."""
        while self._unconfirmed > MAX_WINDOW_BYTES and not self._has_ended:
            if not await self._confirmed.sleep(self._patience.wait_s):
                self._check_pace()
        return not self._has_ended

    @property
    def _has_ended(self) -> bool:
        return self._done or self._failure is not None

    def _read(self, pieces: Sequence[tuple[int, int]]) -> list[FileChunk]:
        """Make chunks of pieces of the source, up to the first that is not there any more. Blocking."""
        chunks = []
        for offset, length in pieces:
            data = self._source.read(offset, length)
            if len(data) != length:
                break
            chunks.append(self._core.render(offset, data))
        return chunks

    def _send_all(self, chunks: Sequence[FileChunk]) -> None:
        for chunk in chunks:
            self._unconfirmed += len(chunk.data)
            self._send(chunk).add_done_callback(partial(self._on_confirm, len(chunk.data)))
        self._progress(chunks[-1].offset + len(chunks[-1].data))

    def _on_confirm(self, size: int, confirm: asyncio.Future[None]) -> None:
        """A chunk that was not confirmed is a gap at the receiver, which asks for it again."""
        self._unconfirmed -= size
        self._confirmed.wake()
        if not confirm.cancelled():
            confirm.exception()

    def _give_up(self, code: ErrorCode, message: str) -> None:
        self._failure = TransferFailed(code, message)
        self._wakeup.wake()
        self._tell(FileAbort(transfer=self._offer.id, code=code, message=message))


class FileSource:
    """See ``Source``: one regular file."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, -1

    @property
    def name(self) -> str:
        """See ``Source``."""
        return self._path.name

    def open(self) -> None:
        """See ``Source``."""
        self._file = open_regular(self._path)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Source``."""
        return os.pread(self._file, length, offset)

    def close(self) -> None:
        """See ``Source``."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def open_regular(path: Path) -> int:
    """Open a file for reading. Raises OSError, also for what is no regular file: such a one may have no end."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def digest_file(path: Path, is_wanted: Callable[[], bool] = lambda: True) -> tuple[int, str]:
    """Give a file's size and the SHA-256 of so much of it: it may be growing. Blocking; raises OSError.

    Where nobody wants it any more it ends soon, with what is of no use."""
    digest = hashlib.sha256()
    with open(open_regular(path), "rb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size
        while left and is_wanted() and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        return file.tell(), digest.hexdigest()


async def read_digest(path: Path, threads: Executor | None = None) -> tuple[int, str]:
    """As ``digest_file``, in a thread, of asyncio's default ones or of these: it is free soon after a cancel."""
    is_wanted = True
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, digest_file, path, lambda: is_wanted)
    except asyncio.CancelledError:
        is_wanted = False
        raise
