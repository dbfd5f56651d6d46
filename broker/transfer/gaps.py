"""What of a stream is not to be sent, since the receiver has it: spans of offsets, and where those between them go.

Pure. Spans come from the other end too: what does not ascend is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from schemas.files import MAX_GAPS


class Gaps:
    """See the module: spans from an offset to before another, apart from each other."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        """Take spans in the order of their offsets; neighbours become one."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        #: Bytes in all spans before each.
        self._before: list[int] = []
        for start, end in spans:
            last = self._ends[-1] if self._ends else -1
            if last == start < end:
                self._ends[-1] = end
            elif last < start < end:
                self._before.append(self.length)
                self._starts.append(start)
                self._ends.append(end)

    @property
    def length(self) -> int:
        """Bytes in all of them."""
        return self._before[-1] + self._ends[-1] - self._starts[-1] if self._ends else 0

    def skip(self, offset: int) -> int:
        """Give the first offset from there on that is in none."""
        at = bisect_right(self._starts, offset) - 1
        return max(offset, self._ends[at]) if at >= 0 else offset

    def next_start(self, offset: int, end: int) -> int:
        """Give where the first one after an offset begins, at most ``end``."""
        at = bisect_right(self._starts, offset)
        return min(end, self._starts[at]) if at < len(self._starts) else end

    def between(self, start: int, end: int) -> int:
        """Count the bytes of all of them that lie between two offsets."""
        return self._up_to(end) - self._up_to(start) if start < end else 0

    def reach(self, offset: int, count: int) -> int:
        """Give the offset before which ``count`` bytes from there on are in none, or ``MAX_GAPS`` have been passed."""
        first = bisect_right(self._starts, offset)
        for start, end in zip(
            self._starts[first : first + MAX_GAPS], self._ends[first : first + MAX_GAPS], strict=True
        ):
            if count <= start - offset:
                return offset + count
            count -= start - offset
            offset = end
        return offset if len(self._starts) - first >= MAX_GAPS else offset + count

    def inside(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """List those that begin between two offsets."""
        first, last = bisect_right(self._starts, start), bisect_right(self._starts, end)
        return tuple(zip(self._starts[first:last], self._ends[first:last], strict=True))

    def _up_to(self, offset: int) -> int:
        at = bisect_right(self._starts, offset) - 1
        return self._before[at] + min(offset, self._ends[at]) - self._starts[at] if at >= 0 else 0


NO_GAPS = Gaps()
