"""How much of something each principal may do: a token bucket each.

Pure: the time is an argument, seconds on any clock that does not step. What is kept is bounded too.
"""

from __future__ import annotations

from collections.abc import Hashable

from msgspec import Struct

#: Buckets that are kept; beyond that the full ones, which say nothing, are forgotten.
MOST_KEPT = 10_000


class _Bucket(Struct):
    level: float
    at_s: float


class TokenBuckets:
    """A bucket of ``at_once`` tokens, filled with ``per_s`` a second, for each of those who share the rule."""

    def __init__(self, at_once: float, per_s: float) -> None:
        self.at_once, self.per_s = at_once, per_s
        self._buckets: dict[Hashable, _Bucket] = {}

    def take(self, who: Hashable, now_s: float, amount: float = 1.0) -> bool:
        """Take an amount from somebody's bucket; False, and nothing taken, where it holds less."""
        bucket = self._buckets.get(who)
        if bucket is None:
            self._make_room(now_s)
            bucket = self._buckets[who] = _Bucket(self.at_once, now_s)
        bucket.level = self._level(bucket, now_s)
        bucket.at_s = now_s
        if bucket.level < amount:
            return False
        bucket.level -= amount
        return True

    def holds(self, who: Hashable, now_s: float, amount: float = 1.0) -> bool:
        """Say whether an amount could be taken; takes nothing."""
        bucket = self._buckets.get(who)
        return (self.at_once if bucket is None else self._level(bucket, now_s)) >= amount

    def _level(self, bucket: _Bucket, now_s: float) -> float:
        return min(self.at_once, bucket.level + max(0.0, now_s - bucket.at_s) * self.per_s)

    def _make_room(self, now_s: float) -> None:
        if len(self._buckets) >= MOST_KEPT:
            kept = {who: one for who, one in self._buckets.items() if self._level(one, now_s) < self.at_once}
            self._buckets = kept if len(kept) < MOST_KEPT else {}
