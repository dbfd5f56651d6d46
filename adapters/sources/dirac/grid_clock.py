"""The server's time, as far as its answers tell: never ahead of it. Pure but for a lock.

DIRAC takes no notice of a status that is older than the last one, and says success. One whose time lies ahead would so
have it pass over what its user orders next, and one that lags is itself passed over, which is seen by reading again.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

#: Answers from which the time is taken.
_MOST_HEARD = 64
#: What an answer of before says less, seconds a second: no two clocks run alike.
_DRIFT = 1e-4


class GridClock:
    """Tells the server's time from that of its answers; on every call later than on the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: deque[tuple[float, float]] = deque(maxlen=_MOST_HEARD)
        self._last = datetime.min.replace(tzinfo=UTC)

    def hear(self, words: str, read_s: float) -> None:
        """Take note of a time in an answer, as of HTTP or of ISO 8601; ``read_s`` is when it came, by our monotonic
        clock. What is no time is passed over."""
        try:
            at = parsedate_to_datetime(words) if "," in words else datetime.fromisoformat(words)
        except (ValueError, TypeError, IndexError, OverflowError):
            return
        if at.tzinfo is not None and 2000 < at.year < 9000:
            with self._lock:
                self._heard.append((at.timestamp() - read_s, read_s))

    def now(self, read_s: float, most_steps: int = 8) -> datetime:
        """Give the server's time at ``read_s``, a little less or equal; room for ``most_steps`` microseconds follows.

        Before anything was heard it is our own.
        """
        with self._lock:
            offsets = [offset - _DRIFT * abs(read_s - heard_s) for offset, heard_s in self._heard]
            at = datetime.fromtimestamp(max(offsets) + read_s, UTC) if offsets else datetime.now(UTC)
            self._last = max(at, self._last + timedelta(microseconds=most_steps))
            return self._last
