"""What is done with the messages of one principal that nobody can take, or that are more than it may send: kept,
counted only, or enough is enough.

Each principal has its own bounds, so that what a stranger sends costs the others nothing: not their dead letters, and
not the centre's time. Pure; the bounds stand in ``docs/explanation/trust.md``.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto

from broker.token_buckets import TokenBuckets
from schemas.ids import Kind, kind_of

#: Dead letters of one principal: so many at once, and one a minute after that.
LETTERS, LETTERS_PER_S = 100, 1 / 60
#: Bytes of its dead letters: a 32nd of what the queue holds at once, and as much again in an hour.
LETTER_BYTES, LETTER_BYTES_PER_S = 2 << 20, (2 << 20) / 3600
#: Bad messages, kept or not, after which it is cut off: so many at once, and 50 a second after that. Reading and
#: dropping one takes the centre 0.1 ms.
OFFENCES, OFFENCES_PER_S = 25_000, 50.0
#: Their bytes, after which it is cut off too: what the centre receives in about a second.
OFFENCE_BYTES, OFFENCE_BYTES_PER_S = 128 << 20, 4 << 20
#: How often that is asked of the key manager for one principal.
CUTS_PER_S = 1 / 60
#: Kinds that are cut off: strangers. The centre's own, and the people at its consoles, are not.
STRANGERS = frozenset({Kind.HOST, Kind.VM, Kind.SITE, Kind.ONCE})
#: Principals whose dropped messages are counted by name.
MOST_NAMED = 1000


class Measure(Enum):
    """What is done with one bad message."""

    #: It goes to the dead letters.
    KEEP = auto()
    #: It is counted, and nothing more.
    DROP = auto()
    #: As ``DROP``, and its sender is cut off. Said once a minute at most.
    CUT_OFF = auto()


class Offences:
    """The bad messages of every principal, as one process has seen them."""

    def __init__(self) -> None:
        self._letters = TokenBuckets(LETTERS, LETTERS_PER_S)
        self._bytes = TokenBuckets(LETTER_BYTES, LETTER_BYTES_PER_S)
        self._all = TokenBuckets(OFFENCES, OFFENCES_PER_S)
        self._all_bytes = TokenBuckets(OFFENCE_BYTES, OFFENCE_BYTES_PER_S)
        self._cuts = TokenBuckets(1, CUTS_PER_S)
        self._dropped: Counter[str] = Counter()

    def judge(self, who: str, size_bytes: int, now_s: float) -> Measure:
        """Say what to do with a bad message of somebody's."""
        is_bearable = self._is_bearable(who, size_bytes, now_s)
        if is_bearable and self._letters.take(who, now_s) and self._bytes.take(who, now_s, size_bytes):
            return Measure.KEEP
        return self._drop(who, now_s, is_bearable=is_bearable)

    def charge(self, who: str, size_bytes: int, now_s: float, *, offences: int = 1) -> Measure:
        """Count a message of somebody's that had no effect and is no letter: it is dropped, whatever this says."""
        return self._drop(who, now_s, is_bearable=self._is_bearable(who, size_bytes, now_s, offences))

    def is_beyond(self, who: str, now_s: float) -> bool:
        """Say whether somebody has sent so much that has no effect that nothing of it need be read."""
        return not (self._all.holds(who, now_s) and self._all_bytes.holds(who, now_s))

    def _is_bearable(self, who: str, size_bytes: int, now_s: float, offences: int = 1) -> bool:
        return self._all.take(who, now_s, offences) and self._all_bytes.take(who, now_s, size_bytes)

    def _drop(self, who: str, now_s: float, *, is_bearable: bool) -> Measure:
        self._dropped[who if who in self._dropped or len(self._dropped) < MOST_NAMED else "others"] += 1
        if is_bearable or kind_of(who) not in STRANGERS:
            return Measure.DROP
        return Measure.CUT_OFF if self._cuts.take(who, now_s) else Measure.DROP

    def take_dropped(self) -> Counter[str]:
        """Give how many were dropped, by principal, since this was asked last."""
        dropped, self._dropped = self._dropped, Counter()
        return dropped
