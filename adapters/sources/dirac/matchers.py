"""Who finds jobs for slots: ``search``, for DiracX has no matcher of its own yet.

It looks for jobs that wait, reads their descriptions, takes those that the slots can do, and marks them with a word of
its own: of two that take one job at once, the later has it. Both may see themselves as the later, which the ledger
settles, as both name the job alike. No job's description is read twice while it waits.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from adapters.errors import JdlError
from adapters.sources.contract import Acquired, Offer
from adapters.sources.dirac.client import DiracClient, DiracRow
from adapters.sources.dirac.jobs import Kept, attempt_of, given, understood
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.dirac.states import WHILE, way
from adapters.sources.dirac.work import JdlWork, fits_platform
from adapters.sources.http import Budget
from schemas.jobs import Machine
from schemas.ledger import JobState

#: Jobs that are looked at in one go.
MOST_LOOKED_AT = 100
#: Descriptions that are remembered of jobs that wait.
MOST_REMEMBERED = 5000
#: Calls whose outcome is not known, of which the jobs are looked for.
MOST_MARKS = 20


class Matcher(Protocol):
    """Finds jobs."""

    def acquire(self, offers: Sequence[Offer], most: int, budget: Budget) -> list[Acquired]:
        """Take jobs that these slots can do. Raises SourceUnavailable and SourceRefused."""

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


class SearchMatcher:
    """Takes jobs that wait, by the operator's search. Calls of several threads go one after the other."""

    def __init__(self, client: DiracClient, settings: DiracSettings, name: str) -> None:
        self._client, self._settings, self._name = client, settings, name
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[int, int], JdlWork | JdlError | None] = OrderedDict()
        #: Jobs that were to be marked, by the mark, until it has been seen which are.
        self._marked: OrderedDict[str, dict[int, _Candidate]] = OrderedDict()
        self._page = 1

    def close(self) -> None:
        """There is nothing to end."""

    def acquire(self, offers: Sequence[Offer], most: int, budget: Budget) -> list[Acquired]:
        """Take jobs that these slots can do. Raises SourceUnavailable and SourceRefused; what has been marked by then
        is given the next time."""
        with budget.holding(self._lock):
            found = self._marked_before(most, budget)
            if found or not offers or most < 1:
                return found
            waiting = self._waiting(budget)
            candidates = self._understood(waiting, budget)
            chosen = self._chosen(candidates, offers, most)
            self._page = 1 if chosen or len(waiting) < MOST_LOOKED_AT else self._page + 1
            return self._taken(chosen, budget) if chosen else []

    def _marked_before(self, most: int, budget: Budget) -> list[Acquired]:
        """Give the jobs of earlier calls that ended before it was known whether they are ours."""
        found: list[Acquired] = []
        for mark, chosen in list(self._marked.items()):
            if len(chosen) <= most - len(found):
                found += self._seen(mark, budget)
        return found

    def _waiting(self, budget: Budget) -> list[DiracRow]:
        sites = ["ANY", "Multiple", self._settings.site]
        wanted = {"Status": "Waiting", **self._settings.only}
        where: list[Mapping[str, Any]] = [
            {"parameter": "Site", "operator": "in", "values": sites},
            *({"parameter": key, "operator": "eq", "value": value} for key, value in wanted.items()),
        ]
        return self._client.search(where, budget, self._page, MOST_LOOKED_AT)

    def _understood(self, waiting: Sequence[DiracRow], budget: Budget) -> list[_Candidate]:
        """Give jobs with what they ask for; the descriptions of those that have not been looked at are read."""
        keys = {row.job: (row.job, attempt_of(row)) for row in waiting}
        unread = [job for job, key in keys.items() if key not in self._known]
        said = self._client.descriptions(unread, budget) if unread else {}
        for job in unread:
            # One that waits and has no description is not asked for it again.
            text = said[job].jdl if job in said and said[job].status == "Waiting" else None
            self._known[keys[job]] = None if text is None else understood(text, job, self._settings.cpu_factor)
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
        known = [(row, self._known.get(keys[row.job])) for row in waiting]
        return [_Candidate(row, asked) for row, asked in known if asked is not None]

    def _chosen(self, candidates: Sequence[_Candidate], offers: Sequence[Offer], most: int) -> list[_Candidate]:
        """Choose what the slots can do, in the order of the jobs, each for the first that fits; and what is for this
        site alone, and cannot be done."""
        free = list(offers)
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
        mark = f"{self._name} {secrets.token_hex(4)}"
        self._marked[mark] = {one.row.job: one for one in chosen}
        if len(self._marked) > MOST_MARKS:
            self._marked.popitem(last=False)
        told = WHILE[JobState.SUBMITTED]._replace(application=mark)
        steps = [told._replace(status=step) for step in way("Waiting", "Matched")]
        self._client.set_statuses({one.row.job: steps for one in chosen}, budget)
        return self._seen(mark, budget)

    def _seen(self, mark: str, budget: Budget) -> list[Acquired]:
        chosen = self._marked[mark]
        seen = self._client.look(list(chosen), budget)
        ours = {job: row for job, row in seen.items() if (row.status, row.application_status) == ("Matched", mark)}
        self._client.set_sites(dict.fromkeys(ours, self._settings.site), budget)
        del self._marked[mark]
        return [chosen[job].given(row) for job, row in ours.items()]
