"""Waiting jobs in order of service, handed out one by one to slots of one class of machine or another. Pure.

The order is walked from its front, which nearly always meets a job that fits: then it does not matter how many kinds of
jobs wait. Who has passed over many that fit nobody looks through the kinds instead, each by its first job. A VM from
which many at the front are kept looks at the others by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from heapq import heapify, heappop, heappush, heapreplace
from typing import Protocol

from adapters.ledger.matching import Fit, Free, Waiting, WaitingJobs

#: Jobs at the front that are passed over, since they fit no slot, before kinds are looked through.
MOST_PASSED = 16
#: Jobs that one slot is refused, for its VM's sake, before it is given none.
MOST_REFUSED = 64
#: VMs that look by themselves at what is not kept from them, in one transaction: a query or two each.
MOST_BY_THEMSELVES = 16

Ask = Callable[[Waiting], Fit]
_Place = tuple[int, int, int]


class Backlog:
    """Jobs that wait: ``walk`` gives all of them in order, if it is there, ``queues`` those of some shapes.

    ``fits`` compares a shape with an offer; ``fitting`` names the waiting shapes that an offer meets. All four are read
    no further than needed, so they may be pages of a database; a job that two of them give is handed out once.
    """

    def __init__(
        self,
        walk: Iterator[Waiting] | None,
        queues: Callable[[Collection[int]], Mapping[int, Iterator[Waiting]]],
        fitting: Callable[[int], Collection[int]],
        fits: Callable[[int, int], bool],
        kinds: int | None = None,
        taken: set[int] | None = None,
    ) -> None:
        """``kinds``: of how many shapes jobs wait at most; None = unknown. ``taken`` is shared with others."""
        self._kinds = kinds
        self._walk, self._queues, self._fitting, self._fits = walk, queues, fitting, fits
        self._walked: list[Waiting] = []
        self._is_whole = False
        self._taken: set[int] = set() if taken is None else taken
        #: How many of the walked are still here: nobody so far could take them.
        self._passed = 0
        #: How far each offer has looked among the walked jobs: what it has passed over it does not meet.
        self._looked: dict[int, int] = {}
        self._lines: dict[int, Iterator[Waiting]] = {}
        #: Shapes of which the jobs were asked for; of some there are none.
        self._asked: set[int] = set()
        self._heads: dict[int, Waiting | None] = {}
        self._places: dict[int, list[_Place]] = {}
        #: Jobs that the slot which was looked at last was refused; and whether its VM is kept free for one of them.
        self.refused = 0
        self.must_wait = False
        self._most_refused = MOST_REFUSED
        #: Shapes for which the VM of that slot has no room.
        self._no_room: set[int] = set()

    def first_for(self, free: Free, ask: Ask, most_refused: int = MOST_REFUSED) -> Waiting | None:
        """Hand out the first job that this slot's machine may have, and that ``ask`` does not refuse its VM.

        None when there is none, when too many were refused, or when the VM is to be kept free for one of them. What has
        no room there has none for others of its shape, which are not asked for, nor counted.
        """
        self.refused, self.must_wait = 0, False
        self._most_refused = most_refused
        self._no_room = set()
        job = self._among_walked(free.offer, ask)
        if job is None and not self._is_whole and self._may_go_on:
            job = self._among_queues(free.offer, ask)
        if job is not None:
            self._taken.add(job.number)
        return job

    @property
    def was_refused(self) -> bool:
        """The last slot met the requirements of a job that its VM may not have now: another VM's may have it."""
        return self.refused > 0

    @property
    def may_hide_more(self) -> bool:
        """The last slot was refused jobs behind which there may be others that were not looked at."""
        return self.was_refused and not self.must_wait and not (self._is_whole and self._may_go_on)

    @property
    def _may_go_on(self) -> bool:
        return self.refused < self._most_refused and not self.must_wait

    def _lets(self, job: Waiting, ask: Ask) -> bool:
        if job.shape in self._no_room:
            return False
        word = ask(job)
        self.refused += word is not Fit.YES
        self.must_wait = word is Fit.WAIT
        if word is Fit.NO:
            self._no_room.add(job.shape)
        return word is Fit.YES

    @property
    def is_spent(self) -> bool:
        """All jobs have been handed out, as far as that is known."""
        if self._is_whole:
            return self._passed == 0
        return len(self._asked) == self._kinds and all(self._head(shape) is None for shape in self._lines)

    def _among_walked(self, offer: int, ask: Ask) -> Waiting | None:
        at = self._looked.get(offer, 0)
        while self._may_go_on and (at < len(self._walked) or self._walk_on()):
            job = self._walked[at]
            at += 1
            fits = job.number not in self._taken and self._fits(job.shape, offer)
            lets = fits and self._lets(job, ask)
            if not self.refused:
                self._looked[offer] = at
            if lets:
                self._passed -= 1
                return job
        return None

    def _walk_on(self) -> bool:
        """Take one more job from the front, unless too many there were taken by nobody."""
        if self._walk is None or self._is_whole or self._passed >= MOST_PASSED:
            return False
        job = next(self._walk, None)
        if job is None:
            self._is_whole = True
            return False
        self._walked.append(job)
        self._passed += job.number not in self._taken
        return True

    def _among_queues(self, offer: int, ask: Ask) -> Waiting | None:
        places = self._places.get(offer)
        if places is None:
            places = self._places[offer] = self._look_through(offer)
        aside: list[_Place] = []
        found: Waiting | None = None
        while places and found is None and self._may_go_on:
            head = self._head(places[0][2])
            if head is None:
                heappop(places)
            elif places[0] != _place(head):
                heapreplace(places, _place(head))
            elif self._lets(head, ask):
                found = head
            else:
                aside.append(heappop(places))
        for place in aside:
            heappush(places, place)
        return found

    def _look_through(self, offer: int) -> list[_Place]:
        shapes = self._fitting(offer)
        new = [shape for shape in shapes if shape not in self._asked]
        self._asked.update(new)
        self._lines |= self._queues(new)
        heads = [self._head(shape) for shape in shapes if shape in self._lines]
        places = [_place(head) for head in heads if head is not None]
        heapify(places)
        return places

    def _head(self, shape: int) -> Waiting | None:
        """Give the first job of a shape that has not been handed out."""
        head = self._heads[shape] if shape in self._heads else next(self._lines[shape], None)
        while head is not None and head.number in self._taken:
            head = next(self._lines[shape], None)
        self._heads[shape] = head
        return head


class HidingJobs(WaitingJobs, Protocol):
    """Waiting jobs behind which there may be others."""

    @property
    def may_hide_more(self) -> bool: ...


class Backlogs:
    """Waiting jobs as all VMs see them; and as one VM does from which so many are kept that they hide all others."""

    def __init__(self, make: Callable[[str, set[int]], HidingJobs]) -> None:
        """``make`` gives what a VM is not kept from (empty = everything), beside the set of those handed out."""
        self._make = make
        self._taken: set[int] = set()
        self._whole = self._last = make("", self._taken)
        self._own: dict[str, HidingJobs] = {}
        self._is_kept_off = False

    def first_for(self, free: Free, ask: Ask) -> Waiting | None:
        """As ``Backlog``."""
        self._is_kept_off = False
        self._last = self._own.get(free.vm, self._whole)
        job = self._last.first_for(free, partial(self._noting, ask))
        is_hidden = job is None and self._is_kept_off and self._last.may_hide_more
        if not is_hidden or free.vm in self._own or len(self._own) >= MOST_BY_THEMSELVES:
            return job
        self._last = self._own[free.vm] = self._make(free.vm, self._taken)
        return self._last.first_for(free, ask)

    def _noting(self, ask: Ask, job: Waiting) -> Fit:
        word = ask(job)
        self._is_kept_off |= word is Fit.ELSEWHERE
        return word

    @property
    def was_refused(self) -> bool:
        """As ``Backlog``: another VM of the same offer may have what this one may not."""
        return self._last is not self._whole or self._whole.was_refused

    @property
    def is_spent(self) -> bool:
        """As ``Backlog``."""
        return self._whole.is_spent


def _place(job: Waiting) -> _Place:
    return job.rank, job.number, job.shape
