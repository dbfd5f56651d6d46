"""Both ends of a transfer as pure state: which chunk counts, what may be sent, what to grant.

The receiver rules. An epoch is one unbroken run of chunks; whatever breaks the run (a gap, a bad CRC, a silence, a new
offer) starts the next one at the offset that the receiver names. Chunks of older epochs break nothing: on a slow line
they may be what is wanted next, and are taken then, or else dropped. Epochs are made of the receiver's clock, so that
another receiver that takes over has later ones.
"""

from __future__ import annotations

from msgspec import Struct

from broker.checksum import crc32
from broker.transfer.gaps import NO_GAPS, Gaps
from schemas.files import MAX_CHUNK_BYTES, MAX_WINDOW_BYTES, FileChunk, FileWindow

#: The window after a silence, and the chunk with it, bytes: a second's worth on the slowest line that keeps a place.
SMALLEST_WINDOW_BYTES = 8 << 10
#: The first window, bytes. Who holds a place at the other end sends, or takes, as much in the time that is his.
WINDOW_BYTES = 1 << 20
#: A window that comes within this time has the next one be twice as large, seconds: far less than a silence. Beyond
#: ``WINDOW_BYTES`` only where the line is so fast that a command, which has the same line, waits for no more behind it.
GROWS_WITHIN_S, LARGE_WITHIN_S = 1.0, 0.05
#: Large windows of which a stream has at least so many.
_LEAST_WINDOWS = 64


class PeerPatience(Struct, kw_only=True):
    """How long to wait for a word of the other end: longer each time that none comes, and again as at first when one
    does. What is said again at each silence would fill a slow line, or a queue that nobody reads, with itself."""

    first_s: float
    #: The longest wait, in first ones.
    most_times: float
    times: float = 1.0

    @property
    def wait_s(self) -> float:
        """The wait that is next."""
        return self.first_s * self.times

    def lose(self) -> None:
        """Nothing came."""
        self.times = min(2 * self.times, self.most_times)

    def regain(self) -> None:
        """Something came."""
        self.times = 1.0


class Inbound(Struct, kw_only=True):
    """The receiving end."""

    transfer: str
    size: int
    epoch: int = 0
    #: All before it has been taken in order.
    taken: int = 0
    #: All before it is on disk.
    durable: int = 0
    granted: int = 0
    #: The most that was ever granted: what comes late may go so far.
    ceiling: int = 0
    #: Bytes that the sender was let send and that have not come.
    owed: int = 0
    #: Bytes that came of what was granted, and too late to be of use.
    late: int = 0
    window: int = WINDOW_BYTES
    dropped: int = 0
    #: After how many bytes, and when, the window began that is to come in time.
    window_from: int = 0
    window_since_s: float = 0.0
    #: What is here already, and passed over.
    gaps: Gaps = NO_GAPS
    #: As far as may be granted; None = to the end.
    bound: int | None = None

    #: Bytes that were taken.
    received: int = 0

    @property
    def is_whole(self) -> bool:
        """Everything has been taken."""
        return self.taken == self.size

    @property
    def came(self) -> int:
        """Bytes that came of what was granted, in time or not."""
        return self.taken + self.late

    def begin(self, offset: int, now_ms: int) -> FileWindow:
        """Start the next epoch at ``offset``, and give the grant that says so."""
        self.epoch = max(self.epoch + 1, now_ms)
        self.taken = self.granted = self.gaps.skip(offset)
        return self.grant()

    def pass_over(self, gaps: Gaps, bound: int) -> None:
        """From the next epoch on have ``gaps`` not sent, and grant up to ``bound``."""
        self.gaps, self.bound = gaps, bound

    def take(self, chunk: FileChunk) -> bool:
        """Say whether a chunk is the next piece. False: dropped; ``is_broken`` tells whether the run is at its end."""
        fits = chunk.epoch <= self.epoch and chunk.offset == self.taken and chunk.data != b""
        if not fits or self.taken + len(chunk.data) > self.gaps.next_start(self.taken, min(self.size, self.ceiling)):
            self.dropped += 1
            return False
        if crc32(chunk.data) != chunk.crc32:
            self.dropped += 1
            return False
        self.taken = self.gaps.skip(self.taken + len(chunk.data))
        self.owed = max(0, self.owed - len(chunk.data))
        self.received += len(chunk.data)
        return True

    def is_late(self, chunk: FileChunk) -> bool:
        """Say whether a dropped chunk is of what was granted once: its sender is at work, and its line is slow. No more
        counts so than was granted."""
        was_granted = chunk.epoch <= self.epoch and 0 < len(chunk.data) <= self.owed
        if was_granted:
            self.owed -= len(chunk.data)
            self.late += len(chunk.data)
        return was_granted

    def shrink(self) -> None:
        """Let the next window be small: what was granted did not come in time."""
        self.window = min(self.window, SMALLEST_WINDOW_BYTES)

    def grow(self, now_s: float, *, may_be_large: bool = True) -> None:
        """Let the next window be twice as large where this one has come in time, and no larger than the first where a
        large one has not, or may not be."""
        if self.received - self.window_from >= self.window:
            took_s = now_s - self.window_since_s
            if took_s <= (GROWS_WITHIN_S if self.window < WINDOW_BYTES else LARGE_WITHIN_S):
                self.window = min(2 * self.window, self._largest_window)
            elif self.window > WINDOW_BYTES:
                self.window = WINDOW_BYTES
            if not may_be_large:
                self.window = min(self.window, WINDOW_BYTES)
            self.window_from, self.window_since_s = self.received, now_s

    def is_broken_by(self, chunk: FileChunk) -> bool:
        """Say whether a dropped chunk shows that the run has a gap: only a new epoch can mend that."""
        return chunk.epoch == self.epoch and chunk.offset >= self.taken and not self.is_whole

    def wants_grant(self) -> bool:
        """Say whether a quarter of the window is used up and there is more to come.

        Three quarters are 60 ms of a line of 100 Mbit/s, more than a word takes there and back."""
        ahead = self.granted - self.taken - self.gaps.between(self.taken, self.granted)
        return self.granted < self._end and ahead <= self.window * 3 // 4

    def grant(self) -> FileWindow:
        """Let the sender go one window beyond what has been taken."""
        limit = min(self._end, self.gaps.reach(self.taken, self.window))
        begun = max(self.granted, self.taken)
        self.owed += max(0, limit - begun - self.gaps.between(begun, limit))
        self.granted = limit
        self.ceiling = max(self.ceiling, limit)
        gaps = self.gaps.inside(self.taken, limit)
        return FileWindow(transfer=self.transfer, epoch=self.epoch, offset=self.taken, limit=limit, gaps=gaps)

    @property
    def _largest_window(self) -> int:
        """What is on its way when a link is cut is sent again: no large part of the whole."""
        return max(WINDOW_BYTES, min(self.size // _LEAST_WINDOWS, MAX_WINDOW_BYTES))

    @property
    def _end(self) -> int:
        return self.size if self.bound is None else min(self.size, self.bound)


class Pace(Struct, kw_only=True):
    """Whether the other end uses what it may: one window, or all that is left, in each ``window_s`` seconds.

    Who sends or takes a byte now and then is no more at work than who is silent, and holds a place as well.
    """

    size: int
    window_s: float
    since_s: float
    reached: int = 0

    def is_kept(self, reached: int, now_s: float) -> bool:
        """Say whether it is fast enough, that far by now."""
        if reached - self.reached >= min(WINDOW_BYTES, self.size - self.reached):
            self.begin(reached, now_s)
        return now_s - self.since_s <= self.window_s

    def begin(self, reached: int, now_s: float) -> None:
        """Count from here: what was before is not the other end's."""
        self.reached, self.since_s = max(reached, self.reached), now_s


class Outbound(Struct, kw_only=True):
    """The sending end."""

    transfer: str
    size: int
    epoch: int = -1
    next: int = 0
    limit: int = 0
    chunk: int = MAX_CHUNK_BYTES
    #: All bytes handed to the wire, those sent again included.
    sent: int = 0
    #: What the receiver does not want of what it has granted.
    gaps: Gaps = NO_GAPS

    def on_window(self, window: FileWindow) -> None:
        """Take a grant; one of an older epoch changes nothing. Whatever it says, no more than the largest window is
        sent of it: what it allows is held in memory at once."""
        gaps = Gaps(window.gaps)
        limit = min(window.limit, gaps.reach(gaps.skip(window.offset), MAX_WINDOW_BYTES))
        if window.epoch > self.epoch:
            self.epoch, self.next, self.limit, self.gaps = window.epoch, window.offset, limit, gaps
        elif window.epoch == self.epoch and limit >= self.limit:
            self.next, self.limit, self.gaps = max(self.next, window.offset), limit, gaps
        elif window.epoch == self.epoch:
            self.next = max(self.next, window.offset)

    def piece(self) -> tuple[int, int] | None:
        """Name (offset, length) of the next chunk, or None while the window is used up."""
        self.next = self.gaps.skip(self.next)
        end = self.gaps.next_start(self.next, min(self.limit, self.size))
        length = min(self.chunk, end - self.next)
        if length <= 0:
            return None
        offset, self.next = self.next, self.next + length
        self.sent += length
        return offset, length

    def render(self, offset: int, data: bytes) -> FileChunk:
        """Make the chunk."""
        return FileChunk(transfer=self.transfer, epoch=self.epoch, offset=offset, crc32=crc32(data), data=data, id="c")
