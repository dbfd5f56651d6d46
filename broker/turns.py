"""Work of many principals at once, of each one after the other: one principal's trouble is its own.

What a principal asks for waits behind what it asked before, and behind nothing else. Of all places nobody has more than
he may, neither one principal nor a *kin*, a host's VMs together; and half of them are for those who have few, so that
whoever comes new finds one. Knows neither messages nor the broker; belongs to one loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable

from broker.daemon.tasks import OwnedTasks

#: One piece of work; deals with its own failures.
Work = Callable[[], Awaitable[None]]

#: Places of a kin that has few: it gets these also when half of all are taken.
FEW = 4


class Turns:
    """See the module. ``places`` are for all that is at work or waits, ``of_kin`` of them for one kin at most."""

    def __init__(self, places: int, of_kin: int) -> None:
        self._places, self._of_kin = places, of_kin
        self._waiting: dict[str, deque[tuple[str, Work]]] = {}
        self._all = 0
        self._taken: Counter[str] = Counter()
        self._taken_by_kin: Counter[str] = Counter()
        self._tasks = OwnedTasks("turns")

    def take(self, principal: str, work: Work, most: int, kin: str = "") -> bool:
        """Do ``work`` when what the principal asked before is done. False, and it is not taken: too much of it, of its
        kin (its own, where none is said) or of all is there."""
        kin = kin or principal
        if self._taken[principal] >= most or not self._has_room(kin):
            return False
        self._all += 1
        self._taken[principal] += 1
        self._taken_by_kin[kin] += 1
        waiting = self._waiting.get(principal)
        if waiting is None:
            waiting = self._waiting[principal] = deque()
            self._tasks.spawn(self._run(principal), name=f"turns of {principal}")
        waiting.append((kin, work))
        return True

    async def close(self) -> None:
        """End what is at work and forget what waits. Idempotent."""
        await self._tasks.cancel()

    def _has_room(self, kin: str) -> bool:
        has = self._taken_by_kin[kin]
        is_crowded = self._all >= self._places // 2
        return self._all < self._places and has < (min(FEW, self._of_kin) if is_crowded else self._of_kin)

    async def _run(self, principal: str) -> None:
        waiting = self._waiting[principal]
        try:
            while waiting:
                await waiting[0][1]()
                self._end(principal, waiting.popleft()[0])
        finally:
            for kin, _ in waiting:
                self._end(principal, kin)
            del self._waiting[principal]

    def _end(self, principal: str, kin: str) -> None:
        self._all -= 1
        _give_back(self._taken, principal)
        _give_back(self._taken_by_kin, kin)


def _give_back(taken: Counter[str], who: str) -> None:
    taken[who] -= 1
    if not taken[who]:
        del taken[who]
