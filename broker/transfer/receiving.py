"""The receiving end at work: chunks from a queue to a landing, which makes of them a file that is whole or not there.

Writing and hashing happen in a thread; the loop only judges chunks and grants. Whoever follows a receiver that was
killed goes on from what its landing has made durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from broker.daemon.wakeup import Wakeup
from broker.errors import PartialTaken, RoomTaken, TransferFailed
from broker.transfer.core import Inbound, Pace, PeerPatience
from broker.transfer.landing import Landing, Open
from broker.transfer.threads import in_thread, to_its_end
from schemas.codec import clip
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.files import MOST_WAITS, FileAbort, FileChunk, FileDone, FileOffer, FileWait

#: Chunks taken and not yet written may be this much together, bytes.
BACKLOG_BYTES = 4 << 20
#: Silence after which the run is taken as broken and a new epoch begun, seconds; each further one is twice as long.
STALL_S = 3.0
#: The longest silence until that is done again, in first ones: a minute, and of who asks at each, 15 s, so that who
#: serves it sees it ask in time (``scheduler.ASKER_GONE_S``).
LONGEST_STALL, LONGEST_ASKING_STALL = 20.0, 5.0
#: So long a silence, in first ones, has a receiver that only waits take the sender as gone: two minutes.
MOST_STALLS = 40
#: Who holds a place at the other end sends, or takes, a window in this time, 9 kB/s for each file, or waits again after
#: the others, seconds. What comes too late counts too.
WINDOW_S = 120.0


class _SenderGone(TransferFailed):
    """The sender was stopped or is silent: whoever offers the file again goes on with the partial file."""


class Receiving:
    """One file coming in. ``tell`` sends a message to the peer and may lose it."""

    def __init__(
        self,
        offer: FileOffer,
        land: Open,
        tell: Callable[[Message], None],
        *,
        stall_s: float = STALL_S,
        most_stalls: int | None = MOST_STALLS,
        window_s: float | None = None,
        again: Callable[[], None] | None = None,
        progress: Callable[[int], None] | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
        is_heard: Callable[[], bool] = lambda: True,
        is_alone: Callable[[], bool] = lambda: True,
    ) -> None:
        """``confirm`` runs when the file is committed, before the sender is told; what it raises fails the transfer.

        ``most_stalls`` None: wait for the sender for ever, for a receiver that asks again at each silence. A sender
        that does not send a window in ``window_s`` counts as gone. While ``is_heard`` says that our words do not reach
        the broker, neither is the sender's fault.
        """
        self._confirm = confirm
        #: Nobody else sends to us: the queue of chunks holds one large window, and a small one of each otherwise.
        self._is_alone = is_alone
        self._is_heard = is_heard
        self._offer = offer
        self._land = land
        self._landing: Landing | None = None
        self._name = ""
        self._is_ready = False
        self._tell = tell
        self._again = again
        self._progress = progress or (lambda _: None)
        longest = LONGEST_STALL if again is None else LONGEST_ASKING_STALL
        self._patience = PeerPatience(first_s=stall_s, most_times=longest)
        self._most_stalls = most_stalls
        self._silent_s, self._waits = 0.0, 0
        self._has_begun = False
        self._core = Inbound(transfer=offer.id, size=offer.size)
        self._window_s = window_s
        self._pace: Pace | None = None
        self._inbox: list[bytes] = []
        self._wakeup = Wakeup()
        self._failure: TransferFailed | None = None
        #: The sender has been silent for a while: another one may take over.
        self.is_stalled = False

    @property
    def is_finishing(self) -> bool:
        """All has come: it is soon where it belongs."""
        return self._core.is_whole

    async def run(self) -> int:
        """Take the whole file, and give how many bytes came: fewer than it has where an earlier receiver had some.
        Post-condition: it has landed, durable. Raises TransferFailed, the target as it was; a
        full disk is one, and PartialTaken, of which the sender is told nothing. After a TIMEOUT and RoomTaken what came
        stays, and the same transfer can go on later."""
        try:
            await self._take_all(await in_thread(self._open))
            return self._core.received
        except OSError as error:
            text = f"cannot write {error.filename or self._name}: {error.strerror}"
            raise await self._abort(ErrorCode.STORE, text) from error
        except asyncio.CancelledError:
            if self._landing is not None and self._inbox:
                await in_thread(_write_rest, self._landing, self._inbox)
            raise
        except (_SenderGone, PartialTaken):
            raise
        except RoomTaken as failure:
            # In its midst a sender that offers hears nothing: it does so again, and hears then, before another byte.
            if not self._is_ready or self._most_stalls is None:
                self._tell_abort(failure.code, str(failure))
            raise
        except TransferFailed as failure:
            raise await self._abort(failure.code, str(failure)) from failure
        finally:
            self._is_ready = False
            if self._landing is not None:
                await in_thread(self._landing.close)

    def _open(self) -> Landing:
        """In a thread: what it opens is ours to close, also when we were cancelled meanwhile."""
        self._landing = self._land(self._offer.size)
        self._name = self._landing.name
        return self._landing

    @property
    def _written(self) -> int:
        return 0 if self._landing is None else self._landing.written

    async def _take_all(self, landing: Landing) -> None:
        self._is_ready = True
        self._core.pass_over(landing.gaps, landing.bound)
        self._begin(landing.written)
        if self._window_s is not None:
            self._pace = Pace(size=self._core.size, window_s=self._window_s, since_s=time.monotonic())
            self._pace.begin(self._core.taken, time.monotonic())
        while landing.written < self._core.size:
            await self._step(landing)
            self._check_pace()
        await to_its_end(self._finish(landing))

    async def _finish(self, landing: Landing) -> None:
        """All bytes are there: whoever wants the place now, or stops us, waits for the rest of it."""
        await in_thread(landing.commit, self._offer.sha256)
        if self._confirm is not None:
            await self._confirm()
        self._tell(FileDone(transfer=self._offer.id))

    def on_chunk(self, chunk: FileChunk) -> bool:
        """Judge a chunk that came; says whether it brought the file on."""
        if not self._is_ready:
            return False
        counts = self._core.take(chunk)
        if counts:
            self._has_begun = True
            self._inbox.append(chunk.data)
            self._core.grow(time.monotonic(), may_be_large=self._is_alone())
            if chunk.epoch == self._core.epoch:
                self._patience.regain()
            self._on_life()
            self._grant_if_wanted()
        elif self._core.is_broken_by(chunk):
            self._begin(self._core.taken)
        elif self._core.is_late(chunk):
            self._on_life()
        return counts

    def again(self) -> None:
        """Begin a new epoch where this one got to: the sender lost touch, or the link is new."""
        self._silent_s = 0.0
        self._progress(self._written)  # the sender is there; what holds it up is ours
        if self._is_ready:
            self._begin(self._core.taken)
        else:
            self._tell(FileWait(transfer=self._offer.id))

    def on_wait(self) -> None:
        """The sender is there, and not ready yet: believed until it has sent something, and so often."""
        if not self._has_begun and self._waits < MOST_WAITS:
            self._waits += 1
            self._silent_s = 0.0
        self._progress(self._written)

    def on_abort(self, abort: FileAbort) -> None:
        """The sender gives up. One that was stopped is silent to a receiver that asks again: another may serve it."""
        if abort.code == ErrorCode.INTERRUPTED and self._most_stalls is None:
            self.is_stalled = True
            return
        failure = _SenderGone if abort.code == ErrorCode.INTERRUPTED else TransferFailed
        self._failure = failure(abort.code, abort.message)
        self._wakeup.wake()

    async def _step(self, landing: Landing) -> None:
        if not await self._wakeup.sleep(self._patience.wait_s):
            self._on_silence()
            return
        if self._failure is not None:
            raise self._failure
        batch, self._inbox = self._inbox, []
        self._progress(await in_thread(landing.write, batch))
        if landing.bound != self._core.bound:
            self._go_beyond(landing)
        self._grant_if_wanted()

    def _go_beyond(self, landing: Landing) -> None:
        """What came has told the landing more of the stream: the sender could not go on until now."""
        self._core.pass_over(landing.gaps, landing.bound)
        self._begin(landing.written)
        if self._pace is not None:
            self._pace.begin(self._core.came, time.monotonic())

    def _check_pace(self) -> None:
        now_s = time.monotonic()
        if self._pace is None:
            return
        self._pace.size = self._core.size + self._core.late
        if not self._is_heard():
            self._pace.begin(self._core.came, now_s)
        elif not self._pace.is_kept(self._core.came, now_s):
            text = f"{self._name!r}: the sender has not sent a window in {self._pace.window_s:.0f} s"
            raise _SenderGone(ErrorCode.TIMEOUT, text)

    def _on_life(self) -> None:
        self.is_stalled = False
        self._silent_s = 0.0
        self._wakeup.wake()

    def _on_silence(self) -> None:
        self.is_stalled = True
        self._silent_s += self._patience.wait_s * self._is_heard()
        if self._most_stalls is not None and self._silent_s >= self._most_stalls * self._patience.first_s:
            text = f"{self._name!r}: the sender is silent for {self._silent_s:.0f} s"
            raise _SenderGone(ErrorCode.TIMEOUT, text)
        self._patience.lose()
        self._core.shrink()
        self._begin(self._core.taken)
        if self._again is not None:
            self._again()

    def _begin(self, offset: int) -> None:
        self._tell(self._core.begin(offset, int(time.time() * 1000)))

    def _grant_if_wanted(self) -> None:
        if self._core.wants_grant() and self._core.taken - self._written <= BACKLOG_BYTES:
            self._tell(self._core.grant())

    async def _abort(self, code: ErrorCode, message: str) -> TransferFailed:
        self._is_ready = False
        if self._landing is not None:
            await in_thread(self._landing.discard)
        self._tell_abort(code, message)
        return TransferFailed(code, message)

    def _tell_abort(self, code: ErrorCode, message: str) -> None:
        self._tell(FileAbort(transfer=self._offer.id, code=code, message=clip(message)))


def _write_rest(landing: Landing, inbox: list[bytes]) -> None:
    """Whoever goes on after us needs not have again what has come."""
    with contextlib.suppress(OSError, TransferFailed):
        landing.write(inbox)
