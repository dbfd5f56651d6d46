"""How many lines of one event a principal may cause: who floods a daemon with what it refuses must not fill its disk.

Lines are events with a constant message, so that those on one principal are known by it; what is left out is counted,
and told with the next line that is let through.
"""

from __future__ import annotations

import logging
from collections import Counter

from broker.token_buckets import MOST_KEPT, TokenBuckets

#: Lines of one event about one principal: so many at once, and two a minute after that.
LINES, LINES_PER_S = 20, 1 / 30
#: Fields of a line that name the principal who caused it.
_WHO = ("sender", "peer", "caller", "vm", "host", "site")


class PrincipalBounds(logging.Filter):
    """Lets a line through, or counts it. What names no principal always goes through, and so does, below a warning, all
    but what tells of a sender."""

    def __init__(self) -> None:
        super().__init__()
        self._buckets = TokenBuckets(LINES, LINES_PER_S)
        self._left_out: Counter[tuple[str, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """See ``logging.Filter``; a line that follows others that were left out says how many: ``left_out=``."""
        who = next((str(record.__dict__[name]) for name in _WHO if name in record.__dict__), "")
        if not who or (record.levelno < logging.WARNING and "sender" not in record.__dict__):
            return True
        key = (str(record.msg), who)
        if not self._buckets.take(key, record.created):
            if key in self._left_out or len(self._left_out) < MOST_KEPT:
                self._left_out[key] += 1
            return False
        if left_out := self._left_out.pop(key, 0):
            record.left_out = left_out
        return True
