"""Who is served, who waits, and who gives way: places that are few, among those that ask for them.

Bounded for one sender, and for the senders that are kin (all VMs of one host: who has the host has them all), so that
nobody new is kept out. Where kin have none, the next free place is theirs; where all are taken, those that have the
most give one up. Pure; the time is an argument, seconds.
"""

from __future__ import annotations

from asyncio import Task
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct

from schemas.files import FileGet, FileOffer

#: At least so long has a place who gives it up to others: enough for a few windows on any line.
TURN_S = 10.0
#: Who waits asks every 4 s, or, while nobody answers, every 15 s; one that has not for this long is gone, seconds.
ASKER_GONE_S = 20.0


class TransferLimits(Struct, frozen=True, kw_only=True):
    """How many transfers there is room for: at work, and, those that wait included, known; of one sender and of kin."""

    at_work: int
    at_work_of_one: int
    at_work_of_kin: int
    known: int
    known_of_one: int
    known_of_kin: int


class TransferRequest(Struct, eq=False, kw_only=True):
    """One transfer that somebody asks for."""

    transfer: str
    sender: str
    kin: str
    asked_s: float
    serve: Callable[[], Coroutine[Any, Any, None]]
    #: What it opened with.
    opening: FileOffer | FileGet | None = None
    #: At work since then; None = it waits.
    begun_s: float | None = None
    task: Task[Any] | None = None
    #: It has been told to let another have its place.
    is_preempted: bool = False


class _Tally:
    def __init__(self) -> None:
        self.all = 0
        self.of_one: Counter[str] = Counter()
        self.of_kin: Counter[str] = Counter()

    def add(self, request: TransferRequest, count: int) -> None:
        self.all += count
        for counter, name in ((self.of_one, request.sender), (self.of_kin, request.kin)):
            counter[name] += count
            if not counter[name]:
                del counter[name]


class Scheduler:
    """See the module."""

    def __init__(self, limits: TransferLimits) -> None:
        self._limits = limits
        #: Those that wait in the order in which they are to be served, but for the shares.
        self._requests: dict[str, TransferRequest] = {}
        self._known, self._at_work = _Tally(), _Tally()

    def __len__(self) -> int:
        return len(self._requests)

    def get(self, transfer: str) -> TransferRequest | None:
        """Give a transfer that is known."""
        return self._requests.get(transfer)

    def all(self) -> list[TransferRequest]:
        """List all that are known."""
        return [*self._requests.values()]

    def asking(self, now_s: float) -> list[TransferRequest]:
        """List those that have a place, or wait and still ask for it."""
        return [v for v in self._requests.values() if v.begun_s is not None or now_s - v.asked_s <= ASKER_GONE_S]

    def at_work(self) -> list[TransferRequest]:
        """List those that have a place."""
        return [request for request in self._requests.values() if request.begun_s is not None]

    def enter(self, request: TransferRequest, now_s: float) -> bool:
        """Let one in to wait. False: its sender or its kin have all that they may, or everybody together."""
        limits, known = self._limits, self._known
        if known.of_one[request.sender] >= limits.known_of_one or known.of_kin[request.kin] >= limits.known_of_kin:
            return False
        if known.all >= limits.known and not self._make_room(request.kin, now_s):
            return False
        self._requests[request.transfer] = request
        known.add(request, 1)
        return True

    def leave(self, request: TransferRequest) -> None:
        """Forget one. Idempotent."""
        if self._requests.get(request.transfer) is request:
            del self._requests[request.transfer]
            self._known.add(request, -1)
            self._rest(request)

    def recognise(self, sender: str, kin: str) -> None:
        """It has become known whose kin a sender is."""
        for request in self._requests.values():
            if request.sender == sender and request.kin != kin:
                tallies = [self._known] if request.begun_s is None else [self._known, self._at_work]
                for tally in tallies:
                    tally.add(request, -1)
                request.kin = kin
                for tally in tallies:
                    tally.add(request, 1)

    def begin_next(self, now_s: float) -> TransferRequest | None:
        """Give a place to whose kin, and who, has the fewest; among equals to who came first. None: nobody, or none is
        free. Who has stopped asking is forgotten."""
        if self._at_work.all >= self._limits.at_work:
            return None
        waiting = [request for request in self._requests.values() if request.begun_s is None]
        for request in waiting:
            if now_s - request.asked_s > ASKER_GONE_S:
                self.leave(request)
        chosen = min((v for v in waiting if self._may_begin(v)), key=self._share, default=None)
        if chosen is not None:
            chosen.begun_s = now_s
            self._at_work.add(chosen, 1)
        return chosen

    def preempt(self, now_s: float, is_finishing: Callable[[str], bool] = lambda _: False) -> TransferRequest | None:
        """Name who is to let kin that have none have its place, where all are taken: of the kin that have the most, the
        one that has had its place for longest, unless it is about to leave. One at a time; it is marked, and waits
        again by ``requeue``."""
        at_work = self.at_work() if self._at_work.all >= self._limits.at_work else []
        if not at_work or any(request.is_preempted for request in at_work) or not self._has_newcomer(now_s):
            return None
        kin, count = self._at_work.of_kin.most_common(1)[0]
        theirs = [v for v in at_work if v.kin == kin and v.begun_s is not None and now_s - v.begun_s >= TURN_S]
        theirs = [v for v in theirs if not is_finishing(v.transfer)]
        if count < 2 or not theirs:
            return None
        chosen = min(theirs, key=lambda v: v.begun_s or 0.0)
        chosen.is_preempted = True
        return chosen

    def requeue(self, request: TransferRequest, now_s: float) -> None:
        """Let one wait again, behind all others."""
        self._rest(request)
        request.is_preempted, request.task, request.asked_s = False, None, now_s
        del self._requests[request.transfer]
        self._requests[request.transfer] = request

    def _rest(self, request: TransferRequest) -> None:
        if request.begun_s is not None:
            request.begun_s = None
            self._at_work.add(request, -1)

    def _may_begin(self, request: TransferRequest) -> bool:
        limits, at_work = self._limits, self._at_work
        return (
            self._requests.get(request.transfer) is request
            and at_work.of_one[request.sender] < limits.at_work_of_one
            and at_work.of_kin[request.kin] < limits.at_work_of_kin
        )

    def _share(self, request: TransferRequest) -> tuple[int, int]:
        return self._at_work.of_kin[request.kin], self._at_work.of_one[request.sender]

    def _has_newcomer(self, now_s: float) -> bool:
        if len(self._known.of_kin) == len(self._at_work.of_kin):
            return False
        return any(
            request.begun_s is None
            and request.kin not in self._at_work.of_kin
            and now_s - request.asked_s <= ASKER_GONE_S
            for request in self._requests.values()
        )

    def _make_room(self, kin: str, now_s: float) -> bool:
        """Forget who has stopped asking; else the last of the kin that have the most, if those have more than ``kin``
        would: it asks again, and comes in when there is room for it."""
        waiting = [request for request in self._requests.values() if request.begun_s is None]
        gone = [request for request in waiting if now_s - request.asked_s > ASKER_GONE_S]
        if not gone:
            most = self._known.of_kin.most_common(1)[0]
            theirs = [request for request in waiting if request.kin == most[0]]
            gone = theirs[-1:] if most[1] > self._known.of_kin[kin] + 1 else []
        for request in gone:
            self.leave(request)
        return bool(gone)
