"""Who finds jobs for slots: ``search``, for DiracX has no matcher of its own yet.

It looks for jobs that wait, reads their descriptions, takes those that the slots can do, and marks them with a word of
its own: of two that take one job at once, the later has it. Both may see themselves as the later, which the ledger
settles, as both name the job alike. No job's description is read twice while it waits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from adapters.errors import JdlError
from adapters.sources.contract import Acquired, GridJob, Offer
from adapters.sources.dirac.client import DiracClient, DiracRow
from adapters.sources.dirac.jobs import Kept, attempt_of, given, understood
from adapters.sources.dirac.orphans import OrphanedJobs, TakenMark
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.dirac.states import WHILE, way
from adapters.sources.dirac.work import JdlWork, fits_platform
from adapters.sources.http import Budget
from schemas.jobs import Machine
from schemas.ledger import JobState

#: Jobs that are looked at in one question, and how many are asked in one call while it has so much time left, seconds.
MOST_LOOKED_AT, MOST_PAGES, LEAST_LOOK_S = 100, 10, 15.0
#: Descriptions that are remembered of jobs that wait, and how long they may be together, characters.
MOST_REMEMBERED, MOST_REMEMBERED_LENGTH = 100_000, 128 << 20
#: Calls whose outcome is not known, of which the jobs are looked for.
MOST_MARKS = 20


class Matcher(Protocol):
    """Finds jobs."""

    def acquire(self, offers: Sequence[Offer], most: int, budget: Budget) -> list[Acquired]:
        """Take jobs that these slots can do. Raises SourceUnavailable and SourceRefused."""

    def orphans(self, budget: Budget) -> list[GridJob]:
        """Name jobs that were taken long ago and of which nothing was said since. Raises as ``acquire`` does."""

    def close(self) -> None:
        """End what it has started. Idempotent."""


class _Candidate(NamedTuple):
    """A job that waits, and what it asks for."""

    row: DiracRow
    asked: JdlWork | JdlError

    def given(self, now: DiracRow) -> Acquired:
        """Give it as it is once it is ours."""
        kept = Kept(site=self.row.site or "ANY", rescheduled=now.reschedule_time or "")
        return given(self.asked, self.row.job, attempt_of(self.row), kept)


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

    def __init__(self, client: DiracClient, settings: DiracSettings, name: str) -> None:
        self._client, self._settings, self._name = client, settings, name
        self._lock = threading.Lock()
        self._known = _Known()
        self._orphans = OrphanedJobs(client, settings.site, name)
        #: Jobs that were to be marked, by the call, until it has been seen which are.
        self._marked: OrderedDict[str, dict[int, _Candidate]] = OrderedDict()
        #: Jobs that are ours and have not been given yet.
        self._ours: list[Acquired] = []
        self._page = 2

    def close(self) -> None:
        """There is nothing to end."""

    def acquire(self, offers: Sequence[Offer], most: int, budget: Budget) -> list[Acquired]:
        """Take jobs that these slots can do. Raises SourceUnavailable and SourceRefused; what has been marked by then
        is given the next time."""
        with budget.holding(self._lock):
            found = self._marked_before(most, budget)
            if found or not offers or most < 1:
                return found
            chosen = self._looked_through(offers, most, budget)
            return self._taken(chosen, budget) if chosen else []

    def orphans(self, budget: Budget) -> list[GridJob]:
        """Name jobs that bear a mark of ours for long, but for those that have not been given yet."""
        with budget.holding(self._lock):
            held = {int(one.job.id) for one in self._ours}.union(*self._marked.values())
            return self._orphans.find(held, budget)

    def _marked_before(self, most: int, budget: Budget) -> list[Acquired]:
        """Give the jobs of earlier calls that ended before it was known whether they are ours, as many as may be."""
        for call in list(self._marked):
            self._ours += self._seen(call, budget)
        given, self._ours = self._ours[:most], self._ours[most:]
        return given

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

    def _taken(self, chosen: Sequence[_Candidate], budget: Budget) -> list[Acquired]:
        """Mark jobs as ours, and give those that bear our mark."""
        call = TakenMark.new_call()
        self._marked[call] = {one.row.job: one for one in chosen}
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
        return self._seen(call, budget)

    def _mark(self, call: str, one: _Candidate) -> str:
        return str(TakenMark(self._name, call, one.row.site or "ANY"))

    def _seen(self, call: str, budget: Budget) -> list[Acquired]:
        chosen = self._marked[call]
        seen = self._client.look(list(chosen), budget)
        ours = {
            job: row
            for job, row in seen.items()
            if (row.status, row.application_status) == ("Matched", self._mark(call, chosen[job]))
        }
        self._client.set_sites(dict.fromkeys(ours, self._settings.site), budget)
        del self._marked[call]
        return [chosen[job].given(row) for job, row in ours.items()]
