"""One job slot: the jobs it has at hand, those it has asked for, and how many it should have. No I/O, no clock.

A job's end and the next job take their way over the wire and through the ledger. A slot takes as many jobs ahead as its
last few would fit into that time, none when they were not short, and gives back what proves to be too many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from math import ceil

from guest_agent.attempt import Attempt

#: That way's time under load, seconds (see docs, performance).
WAY_S = 0.15
#: No job at hand should have to wait longer than this, seconds; behind a job that takes as long there is none.
PATIENCE_S = 1.0
#: A job that takes longer than this counts at once, seconds; shorter ones by their mean over the last few.
TELLING_S = 0.5
FEW = 8
#: What begins within this time is written down together, seconds: should the machine die, so much counts as begun.
SOON_S = 0.1


class Slot:
    """See the module. ``lanes`` are the slot numbers that it asks under, one job each; the first is its own."""

    def __init__(self, lanes: Sequence[int]) -> None:
        self.lanes = lanes
        #: Attempts that wait for their turn, in order.
        self.at_hand: deque[Attempt] = deque()
        #: 1 while a job runs, 0 between two.
        self.busy = 0
        #: It has what payloads run in; until then it asks for nothing.
        self.is_ready = False
        self._asked: set[int] = set()
        self._depth = 1
        self._mean_s: float | None = None

    @property
    def is_idle(self) -> bool:
        """It has nothing to do."""
        return not self.busy and not self.at_hand

    @property
    def asked(self) -> list[int]:
        """The lanes whose request stands."""
        return sorted(self._asked)

    @property
    def ahead(self) -> int:
        """Jobs that one given to it now would have to wait for."""
        return self.busy + len(self.at_hand)

    def soon(self) -> list[Attempt]:
        """List those at hand whose turn comes within a moment, in order."""
        if self._mean_s is None:
            return []
        return list(islice(self.at_hand, int(SOON_S / max(self._mean_s, 1e-3))))

    def ask(self, lanes: Sequence[int]) -> None:
        """Note that a request has been said for these lanes."""
        self._asked.update(lanes)

    def serve(self, lane: int) -> None:
        """Note that a lane's request has been answered."""
        self._asked.discard(lane)

    def learn(self, took_s: float) -> None:
        """Note how long a job took, or has been running by now, seconds.

        The slot may have twice as much as before at most: one short job says little, a long one enough.
        """
        before = self._mean_s
        is_telling = before is None or max(took_s, before) >= TELLING_S
        mean_s = self._mean_s = took_s if before is None or is_telling else before + (took_s - before) / FEW
        fits = 1 + ceil(WAY_S / max(mean_s, 1e-3)) if mean_s < PATIENCE_S else 1
        self._depth = min(len(self.lanes), fits, 2 * self._depth)

    def wanted(self) -> list[int]:
        """List the lanes to ask on; none before half of what the slot should have is lacking: one request for many.

        An idle slot that waits for all it wants says again on one lane that it would begin at once: what it said when
        it was busy would let others go first.
        """
        lacking = self._depth - self.ahead - len(self._asked)
        if lacking >= max(1, self._depth // 2):
            return [lane for lane in self.lanes if lane not in self._asked][:lacking]
        return self.asked[:1] if self.is_idle else []

    def unwanted(self) -> list[int]:
        """Take out the lanes whose requests no longer hold; none while jobs are short: they will be wanted again."""
        kept = max(self._depth - self.ahead, 0)
        if self._mean_s is None or self._mean_s < TELLING_S:
            return []
        surplus = self.asked[kept:]
        self._asked.difference_update(surplus)
        return surplus

    def surplus(self) -> list[Attempt]:
        """Take out what would wait for too long at hand, newest first, for others to run."""
        if self._mean_s is None:
            return []
        kept = 0 if self._mean_s >= PATIENCE_S else ceil(PATIENCE_S / max(self._mean_s, 1e-3))
        return [self.at_hand.pop() for _ in range(len(self.at_hand) - max(kept, 1 - self.busy))]
