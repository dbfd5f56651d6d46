"""Who is served, who waits, and who gives way: places that are few, among those that ask for them.

Bounded for one sender, and for the senders that are kin (all VMs of one host: who has the host has them all), so that
nobody new is kept out. Where kin have none, the next free place is theirs; where all are taken, those that have the
most give one up. Pure; the time is an argument, seconds.
"""

from __future__ import annotations

from asyncio import Task
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from schemas.files import FileGet, FileOffer

#: At least so long has a place who gives it up to others: enough for a few windows on any line.
TURN_S = 10.0
#: Who waits asks every 4 s, or, while nobody answers, every 15 s; one that has not for this long is gone, seconds.
ASKER_GONE_S = 20.0


class Room(Struct, frozen=True, kw_only=True):
    """How many transfers there is room for: at work, and, those that wait included, known; of one sender and of kin."""

    at_work: int
    at_work_of_one: int
    at_work_of_kin: int
    known: int
    known_of_one: int
    known_of_kin: int


class Visit(Struct, eq=False, kw_only=True):
    """One transfer that somebody asks for."""

    transfer: str
    sender: str
    kin: str
    asked_s: float
    serve: Callable[[], Awaitable[None]]
    #: What it opened with.
    opening: FileOffer | FileGet | None = None
    #: At work since then; None = it waits.
    begun_s: float | None = None
    task: Task[Any] | None = None
    #: It has been told to let another have its place.
    gives_way: bool = False


class _Tally:
    def __init__(self) -> None:
        self.all = 0
        self.of_one: Counter[str] = Counter()
        self.of_kin: Counter[str] = Counter()

    def add(self, visit: Visit, count: int) -> None:
        self.all += count
        for counter, name in ((self.of_one, visit.sender), (self.of_kin, visit.kin)):
            counter[name] += count
            if not counter[name]:
                del counter[name]


class Places:
    """See the module."""

    def __init__(self, room: Room) -> None:
        self._room = room
        #: Those that wait in the order in which they are to be served, but for the shares.
        self._visits: dict[str, Visit] = {}
        self._known, self._at_work = _Tally(), _Tally()

    def __len__(self) -> int:
        return len(self._visits)

    def get(self, transfer: str) -> Visit | None:
        """Give a transfer that is known."""
        return self._visits.get(transfer)

    def all(self) -> list[Visit]:
        """List all that are known."""
        return [*self._visits.values()]

    def asking(self, now_s: float) -> list[Visit]:
        """List those that have a place, or wait and still ask for it."""
        return [v for v in self._visits.values() if v.begun_s is not None or now_s - v.asked_s <= ASKER_GONE_S]

    def at_work(self) -> list[Visit]:
        """List those that have a place."""
        return [visit for visit in self._visits.values() if visit.begun_s is not None]

    def enter(self, visit: Visit, now_s: float) -> bool:
        """Let one in to wait. False: its sender or its kin have all that they may, or everybody together."""
        room, known = self._room, self._known
        if known.of_one[visit.sender] >= room.known_of_one or known.of_kin[visit.kin] >= room.known_of_kin:
            return False
        if known.all >= room.known and not self._make_room(visit.kin, now_s):
            return False
        self._visits[visit.transfer] = visit
        known.add(visit, 1)
        return True

    def leave(self, visit: Visit) -> None:
        """Forget one. Idempotent."""
        if self._visits.get(visit.transfer) is visit:
            del self._visits[visit.transfer]
            self._known.add(visit, -1)
            self._rest(visit)

    def recognise(self, sender: str, kin: str) -> None:
        """It has become known whose kin a sender is."""
        for visit in self._visits.values():
            if visit.sender == sender and visit.kin != kin:
                tallies = [self._known] if visit.begun_s is None else [self._known, self._at_work]
                for tally in tallies:
                    tally.add(visit, -1)
                visit.kin = kin
                for tally in tallies:
                    tally.add(visit, 1)

    def begin_next(self, now_s: float) -> Visit | None:
        """Give a place to whose kin, and who, has the fewest; among equals to who came first. None: nobody, or none is
        free. Who has stopped asking is forgotten."""
        if self._at_work.all >= self._room.at_work:
            return None
        waiting = [visit for visit in self._visits.values() if visit.begun_s is None]
        for visit in waiting:
            if now_s - visit.asked_s > ASKER_GONE_S:
                self.leave(visit)
        chosen = min((v for v in waiting if self._may_begin(v)), key=self._share, default=None)
        if chosen is not None:
            chosen.begun_s = now_s
            self._at_work.add(chosen, 1)
        return chosen

    def give_way(self, now_s: float, is_finishing: Callable[[str], bool] = lambda _: False) -> Visit | None:
        """Name who is to let kin that have none have its place, where all are taken: of the kin that have the most, the
        one that has had its place for longest, unless it is about to leave. One at a time; it is marked, and waits
        again by ``put_back``."""
        at_work = self.at_work() if self._at_work.all >= self._room.at_work else []
        if not at_work or any(visit.gives_way for visit in at_work) or not self._has_newcomer(now_s):
            return None
        kin, count = self._at_work.of_kin.most_common(1)[0]
        theirs = [v for v in at_work if v.kin == kin and v.begun_s is not None and now_s - v.begun_s >= TURN_S]
        theirs = [v for v in theirs if not is_finishing(v.transfer)]
        if count < 2 or not theirs:
            return None
        chosen = min(theirs, key=lambda v: v.begun_s or 0.0)
        chosen.gives_way = True
        return chosen

    def put_back(self, visit: Visit, now_s: float) -> None:
        """Let one wait again, behind all others."""
        self._rest(visit)
        visit.gives_way, visit.task, visit.asked_s = False, None, now_s
        del self._visits[visit.transfer]
        self._visits[visit.transfer] = visit

    def _rest(self, visit: Visit) -> None:
        if visit.begun_s is not None:
            visit.begun_s = None
            self._at_work.add(visit, -1)

    def _may_begin(self, visit: Visit) -> bool:
        room, at_work = self._room, self._at_work
        return (
            self._visits.get(visit.transfer) is visit
            and at_work.of_one[visit.sender] < room.at_work_of_one
            and at_work.of_kin[visit.kin] < room.at_work_of_kin
        )

    def _share(self, visit: Visit) -> tuple[int, int]:
        return self._at_work.of_kin[visit.kin], self._at_work.of_one[visit.sender]

    def _has_newcomer(self, now_s: float) -> bool:
        if len(self._known.of_kin) == len(self._at_work.of_kin):
            return False
        return any(
            visit.begun_s is None and visit.kin not in self._at_work.of_kin and now_s - visit.asked_s <= ASKER_GONE_S
            for visit in self._visits.values()
        )

    def _make_room(self, kin: str, now_s: float) -> bool:
        """Forget who has stopped asking; else the last of the kin that have the most, if those have more than ``kin``
        would: it asks again, and comes in when there is room for it."""
        waiting = [visit for visit in self._visits.values() if visit.begun_s is None]
        gone = [visit for visit in waiting if now_s - visit.asked_s > ASKER_GONE_S]
        if not gone:
            most = self._known.of_kin.most_common(1)[0]
            theirs = [visit for visit in waiting if visit.kin == most[0]]
            gone = theirs[-1:] if most[1] > self._known.of_kin[kin] + 1 else []
        for visit in gone:
            self.leave(visit)
        return bool(gone)
