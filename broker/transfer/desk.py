"""Who is served now and who waits, of those that open transfers with one end: everybody hears that it is there.

So many are at work at once, so many of one sender, and so many wait; whoever is over that is told to wait too, and is
known no further: who opens a transfer asks until it is served. One that has stopped asking is not begun.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable

from msgspec import Struct

from broker.transfer.transfers import Transfers
from schemas.files import FileGet, FileOffer, FileWait

#: Who waits asks every 4 s; one that has not for this long is gone, seconds.
ASKER_GONE_S = 20.0


class Room(Struct, frozen=True, kw_only=True):
    """How many transfers there is room for: at work, of one sender, and, those that wait included, known."""

    at_work: int
    at_work_of_one: int
    known: int
    known_of_one: int


class _Visit(Struct):
    sender: str
    asked_at: float
    task: asyncio.Task[None] | None = None


class Desk:
    """See the module. Belongs to one loop."""

    def __init__(self, transfers: Transfers, room: Room, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._transfers, self._room, self._clock = transfers, room, clock
        self._visits: dict[str, _Visit] = {}
        self._of: Counter[str] = Counter()
        self._all = asyncio.Semaphore(room.at_work)
        self._own: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(room.at_work_of_one))

    @property
    def known(self) -> int:
        """Transfers that are at work or wait."""
        return len(self._visits)

    def open(self, sender: str, opening: FileOffer | FileGet, serve: Callable[[], Awaitable[None]]) -> bool:
        """Have ``serve`` run when there is room; an opening that is known already is answered. False: over the limit.

        ``serve`` deals with its own failures.
        """
        visit = self._visits.get(opening.id)
        if visit is not None:
            self._ask_again(visit, sender, opening)
            return True
        if len(self._visits) >= self._room.known or self._of[sender] >= self._room.known_of_one:
            self._say_wait(sender, opening)
            return False
        visit = self._visits[opening.id] = _Visit(sender, self._clock())
        self._of[sender] += 1
        visit.task = asyncio.create_task(self._run(visit, serve))
        visit.task.add_done_callback(lambda _: self._ended(sender, opening.id))
        return True

    async def close(self) -> None:
        """End what is at work and forget what waits; the other ends ask again, here or elsewhere. Idempotent."""
        tasks = [visit.task for visit in self._visits.values() if visit.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask_again(self, visit: _Visit, sender: str, opening: FileOffer | FileGet) -> None:
        if visit.sender != sender:
            return
        visit.asked_at = self._clock()
        if not self._transfers.is_open(opening.id):
            self._say_wait(sender, opening)
        elif isinstance(opening, FileOffer):
            self._transfers.on_message(sender, opening)

    def _say_wait(self, sender: str, opening: FileOffer | FileGet) -> None:
        self._transfers.tell(sender, opening.reply, FileWait(transfer=opening.id))

    async def _run(self, visit: _Visit, serve: Callable[[], Awaitable[None]]) -> None:
        async with self._own[visit.sender], self._all:
            if self._clock() - visit.asked_at <= ASKER_GONE_S:
                await serve()

    def _ended(self, sender: str, transfer: str) -> None:
        self._visits.pop(transfer, None)
        self._of[sender] -= 1
        if not self._of[sender]:
            del self._of[sender]
            self._own.pop(sender, None)
