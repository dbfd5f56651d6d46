"""One job slot: the jobs it has at hand, those it has asked for, and how many it should have. No I/O, no clock.

A job's end and the next job take their way over the wire and through the ledger. A slot takes as many jobs ahead as its
last one would fit into that time, none when its last one was long, and gives back what proves to be too many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil

from guest_agent.attempt import Attempt

#: That way's time under load, seconds (see docs, performance).
WAY_S = 0.15
#: A job is short up to here, seconds: a slot whose last job was longer takes none ahead.
SHORT_S = 5.0
#: A job at hand should not have to wait longer than this, seconds; one that would is given back.
PATIENCE_S = 1.0
#: A job that takes longer than this counts at once, seconds; shorter ones by their mean over the last few.
TELLING_S = 0.5
FEW = 8


class Slot:
    """See the module. ``lanes`` are the slot numbers that it asks under, one job each; the first is its own."""

    def __init__(self, lanes: Sequence[int]) -> None:
        self.lanes = lanes
        #: Attempts that wait for their turn, in order.
        self.at_hand: deque[Attempt] = deque()
        #: 1 while a job runs, 0 between two.
        self.busy = 0
        self._asked: dict[int, str] = {}
        self._depth = 1
        self._mean_s: float | None = None

    @property
    def asked(self) -> list[int]:
        """The lanes whose request stands."""
        return list(self._asked)

    def ask(self, lanes: Sequence[int], request: str) -> None:
        """Note that a request has been said for these lanes."""
        self._asked.update(dict.fromkeys(lanes, request))

    def ahead_of(self, lanes: Sequence[int]) -> int:
        """Count the jobs that are to run before one given on the first of these lanes."""
        return self.busy + len(self.at_hand) + len(self._asked.keys() - set(lanes))

    def serve(self, lane: int) -> None:
        """Note that a lane's request has been answered."""
        self._asked.pop(lane, None)

    def learn(self, took_s: float) -> None:
        """Note how long a job took, or has been running by now, seconds.

        The slot may have twice as much as before at most: one short job says little, a long one enough.
        """
        before = self._mean_s
        is_telling = before is None or max(took_s, before) >= TELLING_S
        mean_s = self._mean_s = took_s if before is None or is_telling else before + (took_s - before) / FEW
        fits = 1 + ceil(WAY_S / max(mean_s, 1e-3)) if mean_s < SHORT_S else 1
        self._depth = min(len(self.lanes), fits, 2 * self._depth)

    def wanted(self) -> list[int]:
        """List the lanes to ask on; none before half of what the slot should have is lacking: one request for many."""
        lacking = self._depth - self.busy - len(self._asked) - len(self.at_hand)
        if lacking < max(1, self._depth // 2):
            return []
        return [lane for lane in self.lanes if lane not in self._asked][:lacking]

    def surplus(self) -> list[Attempt]:
        """Take out what would wait for too long at hand, newest first, for others to run."""
        if self._mean_s is None:
            return []
        kept = 0 if self._mean_s >= SHORT_S else ceil(PATIENCE_S / max(self._mean_s, 1e-3))
        return [self.at_hand.pop() for _ in range(len(self.at_hand) - max(kept, 1 - self.busy))]
