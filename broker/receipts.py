"""The acknowledgements of one channel: of what is dropped unread as many at once as can be.

A flood is drained at the pace of its acknowledgements: each by itself is a frame here, and an entry in the log of a
quorum queue there. AMQP acknowledges all up to a tag at once; so that this takes in nothing that somebody still has at
hand, it is known what that is. Knows no AMQP library; belongs to one loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from broker.delivery import Settle


class Receipts:
    """See the module. Tags grow; each is given to ``open`` or to ``drop``, once."""

    def __init__(
        self,
        settler: Callable[[int], Settle],
        acknowledge_up_to: Callable[[int], None],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """``settler`` gives what settles one tag; ``soon`` calls when this turn of the loop is over."""
        self._settler, self._acknowledge_up_to, self._soon = settler, acknowledge_up_to, soon
        #: Tags that somebody has at hand, the oldest first.
        self._at_hand: dict[int, None] = {}
        self._dropped: list[int] = []

    def open(self, tag: int) -> Settle:
        """Give what settles a message that goes on to its reader."""
        settle = self._settler(tag)
        self._at_hand[tag] = None

        def settle_it(rejected: bool) -> None:
            self._at_hand.pop(tag, None)
            settle(rejected)

        return settle_it

    def drop(self, tag: int) -> None:
        """Acknowledge a message that nobody reads, with the others of this turn."""
        if not self._dropped:
            self._soon(self._flush)
        self._dropped.append(tag)

    def _flush(self) -> None:
        dropped, self._dropped = self._dropped, []
        oldest = next(iter(self._at_hand), dropped[-1] + 1)
        below = bisect_left(dropped, oldest)
        if below:
            self._acknowledge_up_to(dropped[below - 1])
        for tag in dropped[below:]:
            self._settler(tag)(False)
