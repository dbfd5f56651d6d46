"""Who finds jobs for slots: ``search``, for DiracX has no matcher of its own yet.

It looks for jobs that wait, reads their descriptions, takes those that the slots can do, and marks them with a word of
its own: of two that take one job at once, the later has it. Both may see themselves as the later, which the ledger
settles, as both name the job alike. No job's description is read twice while it waits.

What a call has taken that ended before it was known what is given by the next one; where that is not soon it is left to
whoever sees to lost takings, by its mark.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from adapters.errors import JdlError, SourceUnavailable
from adapters.sources.contract import Acquired, GridJob, Offer
from adapters.sources.dirac.client import DiracClient, DiracRow
from adapters.sources.dirac.jobs import Kept, attempt_of, given, understood
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.dirac.states import WHILE, way
from adapters.sources.dirac.taken import TakenMark, find_taken, let_go
from adapters.sources.dirac.work import JdlWork, fits_platform
from adapters.sources.http import Budget
from schemas.jobs import Machine
from schemas.ledger import JobState

#: Jobs that are looked at in one question, and how many are asked in one call while it has so much time left, seconds.
MOST_LOOKED_AT, MOST_PAGES, LEAST_LOOK_S = 100, 10, 15.0
#: Descriptions that are remembered of jobs that wait, and how long they may be together, characters.
MOST_REMEMBERED, MOST_REMEMBERED_LENGTH = 100_000, 128 << 20
#: Calls whose outcome is not known, of which the jobs are looked for; and for how long, seconds: then they are void.
MOST_MARKS, SOON_S = 20, 60.0


class Matcher(Protocol):
    """Finds jobs."""

    @property
    def names_takings(self) -> bool:
        """As of a source."""

    def acquire(self, offers: Sequence[Offer], most: int, taking: str, budget: Budget) -> list[Acquired]:
        """Take jobs that these slots can do. Raises SourceUnavailable and SourceRefused."""

    def taken(self, takings: Sequence[str], budget: Budget) -> list[GridJob]:
        """Name jobs that were taken in these calls, and are as they were then. Raises as ``acquire`` does."""

    def close(self) -> None:
        """End what it has started. Idempotent."""


class _Candidate(NamedTuple):
    """A job that waits, and what it asks for."""

    row: DiracRow
    asked: JdlWork | JdlError

    @property
    def site(self) -> str:
        """For which site it is."""
        return self.row.site or "ANY"

    def given(self, now: DiracRow) -> Acquired:
        """Give it as it is once it is ours."""
        kept = Kept(site=self.site, rescheduled=now.reschedule_time or "")
        return given(self.asked, self.row.job, attempt_of(self.row), kept)


class _Taking(NamedTuple):
    """Jobs that were to be marked in a call, and when."""

    of: Mapping[int, _Candidate]
    since_s: float


class _Known:
    """What jobs that wait ask for, by number and try; None = one with no description. The oldest are forgotten."""

    def __init__(self) -> None:
        self._of: OrderedDict[tuple[int, int], tuple[JdlWork | JdlError | None, int]] = OrderedDict()
        self._length = 0

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._of

    def get(self, key: tuple[int, int]) -> JdlWork | JdlError | None:
        return self._of.get(key, (None, 0))[0]

    def put(self, key: tuple[int, int], asked: JdlWork | JdlError | None, length: int) -> None:
        self._of[key] = asked, length
        self._length += length
        while len(self._of) > MOST_REMEMBERED or (self._length > MOST_REMEMBERED_LENGTH and len(self._of) > 1):
            _, (_, gone) = self._of.popitem(last=False)
            self._length -= gone


class SearchMatcher:
    """Takes jobs that wait, by the operator's search. Calls of several threads go one after the other."""

    names_takings = True

    def __init__(
        self, client: DiracClient, settings: DiracSettings, name: str, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._settings, self._name, self._clock_s = client, settings, name, clock_s
        self._lock = threading.Lock()
        self._known = _Known()
        #: Jobs that were to be marked, by the call, until it has been seen which are.
        self._marked: OrderedDict[str, _Taking] = OrderedDict()
        self._page = 2

    def close(self) -> None:
        """There is nothing to end."""

    def acquire(self, offers: Sequence[Offer], most: int, taking: str, budget: Budget) -> list[Acquired]:
        """Take jobs that these slots can do. Raises SourceUnavailable and SourceRefused; what has been marked by then
        is given the next time."""
        with budget.holding(self._lock):
            found = self._marked_before(most, budget)
            if found or not offers or most < 1:
                return found
            chosen = self._looked_through(offers, most, budget)
            return self._take(chosen, taking or TakenMark.new_taking(), budget) if chosen else []

    def taken(self, takings: Sequence[str], budget: Budget) -> list[GridJob]:
        """Name jobs that bear the marks of these calls."""
        return find_taken(self._client, self._name, takings, ("ANY", "Multiple", self._settings.site), budget)

    def _marked_before(self, most: int, budget: Budget) -> list[Acquired]:
        """Give the jobs of an earlier call that ended before it was known whether they are ours: as many as may be, for
        the others wait again."""
        for call in list(self._marked):
            if self._clock_s() - self._marked[call].since_s > SOON_S:
                del self._marked[call]
            elif found := self._seen(call, most, budget):
                return [msgspec.structs.replace(one, taking=call) for one in found]
        return []

    def _looked_through(self, offers: Sequence[Offer], most: int, budget: Budget) -> list[_Candidate]:
        """Choose what the slots can do: of the first that wait, and then where the last call has left off, since those
        before may be for others alone. DiracX puts jobs whose descriptions are read behind the others: while some of a
        page were not read it is looked at again."""
        free, chosen, page = list(offers), list[_Candidate](), 1
        for _ in range(MOST_PAGES):
            waiting = self._waiting(page, budget)
            before = {one.row.job for one in chosen}
            is_known, found = self._understood([row for row in waiting if row.job not in before], budget)
            chosen += self._chosen(found, free, most - len(chosen))
            is_last = len(waiting) < MOST_LOOKED_AT
            if page > 1 or is_last:
                self._page = 2 if is_last else page
            if is_last or len(chosen) >= most or budget.left_s() < LEAST_LOOK_S:
                break
            page = page if not is_known else max(page + 1, self._page) if page == 1 else page + 1
        return chosen

    def _waiting(self, page: int, budget: Budget) -> list[DiracRow]:
        sites = ["ANY", "Multiple", self._settings.site]
        wanted = {"Status": "Waiting", **self._settings.only}
        where: list[Mapping[str, Any]] = [
            {"parameter": "Site", "operator": "in", "values": sites},
            *({"parameter": key, "operator": "eq", "value": value} for key, value in wanted.items()),
        ]
        return self._client.search(where, budget, page, MOST_LOOKED_AT)

    def _understood(self, waiting: Sequence[DiracRow], budget: Budget) -> tuple[bool, list[_Candidate]]:
        """Give jobs with what they ask for; the descriptions of those that have not been looked at are read. Says also
        whether all had been."""
        keys = {row.job: (row.job, attempt_of(row)) for row in waiting}
        unread = [job for job, key in keys.items() if key not in self._known]
        said = self._client.descriptions(unread, budget) if unread else {}
        for job in unread:
            # One that waits and has no description is not asked for it again.
            text = said[job].jdl if job in said and said[job].status == "Waiting" else None
            asked = None if text is None else understood(text, job, self._settings.cpu_factor)
            self._known.put(keys[job], asked, len(text or ""))
        known = [(row, self._known.get(keys[row.job])) for row in waiting]
        return not unread, [_Candidate(row, asked) for row, asked in known if asked is not None]

    def _chosen(self, candidates: Sequence[_Candidate], free: list[Offer], most: int) -> list[_Candidate]:
        """Choose what the slots that are free can do, in the order of the jobs, each for the first that fits; and what
        is for this site alone, and cannot be done."""
        chosen: list[_Candidate] = []
        for one in candidates:
            if len(chosen) < most and self._finds_room(one, free):
                chosen.append(one)
        return chosen

    def _finds_room(self, one: _Candidate, free: list[Offer]) -> bool:
        asked = one.asked
        if isinstance(asked, JdlError):
            # It needs no slot, for its owner to hear the reason. What others may have is theirs: they can do more.
            return one.row.site == self._settings.site
        if not asked.is_for(self._settings.site):
            return False
        for n, offer in enumerate(free):
            if offer.slots and self._fits(asked, offer.machine):
                free[n] = offer._replace(slots=offer.slots - 1)
                return True
        return False

    def _fits(self, asked: JdlWork, machine: Machine) -> bool:
        needs = asked.work.requirements
        return (
            needs.cpus <= machine.cpus
            and needs.memory_mib <= machine.memory_mib
            and set(needs.features) <= set(machine.features)
            and fits_platform(asked.platforms, machine.platform, self._settings.platforms)
        )

    def _take(self, chosen: Sequence[_Candidate], call: str, budget: Budget) -> list[Acquired]:
        """Mark jobs as ours, and give those that bear our mark."""
        self._marked[call] = _Taking({one.row.job: one for one in chosen}, self._clock_s())
        if len(self._marked) > MOST_MARKS:
            self._marked.popitem(last=False)
        told = WHILE[JobState.SUBMITTED]
        steps = {
            one.row.job: [
                told._replace(status=step, application=self._mark(call, one)) for step in way("Waiting", "Matched")
            ]
            for one in chosen
        }
        self._client.set_statuses(steps, budget)
        return self._seen(call, len(chosen), budget)

    def _mark(self, call: str, one: _Candidate) -> str:
        return str(TakenMark(self._name, call, one.site))

    def _seen(self, call: str, most: int, budget: Budget) -> list[Acquired]:
        """Give those of a call that bear its mark, which is over then; what is beyond ``most`` is let go."""
        chosen = self._marked[call].of
        seen = self._client.look(list(chosen), budget)
        ours = [
            job
            for job, row in seen.items()
            if (row.status, row.application_status) == ("Matched", self._mark(call, chosen[job]))
        ]
        beyond = {job: Kept(site=chosen[job].site, mark=self._mark(call, chosen[job])) for job in ours[most:]}
        if beyond and (stuck := let_go(self._client, beyond, "Given back: no slot is free any more", budget)):
            raise SourceUnavailable(f"{len(stuck)} jobs are not given back, such as {min(stuck)}")
        self._client.set_sites(dict.fromkeys(ours[:most], self._settings.site), budget)
        del self._marked[call]
        return [chosen[job].given(seen[job]) for job in ours[:most]]
