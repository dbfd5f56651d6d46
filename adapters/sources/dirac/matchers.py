"""Who finds jobs for slots: ``search``, for DiracX has no matcher of its own yet.

It looks for jobs that wait, reads their descriptions, takes those that the slots can do, and marks them with a word of
its own: of two that take one job at once, the later has it. Both may see themselves as the later, which the ledger
settles, as both name the job alike. No job's description is read twice while it waits.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from adapters.errors import JdlError
from adapters.sources.contract import Acquired, Offer
from adapters.sources.dirac.client import DiracClient, DiracRow
from adapters.sources.dirac.http import Budget
from adapters.sources.dirac.jobs import Kept, attempt_of, given, understood
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.dirac.states import WHILE, way
from adapters.sources.dirac.work import JdlWork, fits_platform
from schemas.jobs import Machine
from schemas.ledger import JobState

#: Jobs that are looked at in one go, and descriptions that are read in one.
MOST_LOOKED_AT, MOST_READ = 200, 100
#: Descriptions that are remembered of jobs that wait.
MOST_REMEMBERED = 5000


class Matcher(Protocol):
    """Finds jobs."""

    def acquire(self, offers: Sequence[Offer], most: int, budget: Budget) -> list[Acquired]:
        """Take jobs that these slots can do. Raises SourceUnavailable and SourceRefused."""

    def close(self) -> None:
        """End what it has started. Idempotent."""


class SearchMatcher:
    """Takes jobs that wait, by the operator's search."""

    def __init__(self, client: DiracClient, settings: DiracSettings, name: str) -> None:
        self._client, self._settings, self._name = client, settings, name
        self._known: OrderedDict[tuple[int, int], JdlWork | JdlError] = OrderedDict()
        self._page = 1

    def close(self) -> None:
        """There is nothing to end."""

    def acquire(self, offers: Sequence[Offer], most: int, budget: Budget) -> list[Acquired]:
        """Take jobs that these slots can do. Raises SourceUnavailable and SourceRefused."""
        if not offers or most < 1:
            return []
        waiting = {row.job: row for row in self._waiting(budget)}
        self._read(waiting, budget)
        chosen = self._chosen(waiting, offers, most)
        self._page = 1 if chosen or len(waiting) < MOST_LOOKED_AT else self._page + 1
        return self._taken({job: waiting[job] for job in chosen}, budget) if chosen else []

    def _waiting(self, budget: Budget) -> list[DiracRow]:
        sites = ["ANY", "Multiple", self._settings.site]
        wanted = {"Status": "Waiting", **self._settings.only}
        where: list[Mapping[str, Any]] = [
            {"parameter": "Site", "operator": "in", "values": sites},
            *({"parameter": key, "operator": "eq", "value": value} for key, value in wanted.items()),
        ]
        return self._client.search(where, budget, self._page, MOST_LOOKED_AT)

    def _read(self, waiting: Mapping[int, DiracRow], budget: Budget) -> None:
        """Read the descriptions of jobs that have not been looked at."""
        keys = {job: (job, attempt_of(row)) for job, row in waiting.items()}
        unread = [job for job, key in keys.items() if key not in self._known][:MOST_READ]
        if unread:
            for job, said in self._client.descriptions(unread, budget).items():
                if job in keys and said.jdl is not None and said.status == "Waiting":
                    self._known[keys[job]] = understood(said.jdl, job, self._settings.cpu_factor)
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)

    def _chosen(self, waiting: Mapping[int, DiracRow], offers: Sequence[Offer], most: int) -> list[int]:
        """Choose what the slots can do, in the order of the jobs, each for the first that fits; and what nobody can."""
        free = list(offers)
        chosen: list[int] = []
        for job, row in waiting.items():
            asked = self._known.get((job, attempt_of(row)))
            if asked is not None and len(chosen) < most and self._finds_room(asked, free):
                chosen.append(job)
        return chosen

    def _finds_room(self, asked: JdlWork | JdlError, free: list[Offer]) -> bool:
        if isinstance(asked, JdlError):
            return True
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

    def _taken(self, chosen: Mapping[int, DiracRow], budget: Budget) -> list[Acquired]:
        """Mark jobs as ours, and give those that bear our mark."""
        mark = f"{self._name} {secrets.token_hex(4)}"
        told = WHILE[JobState.SUBMITTED]._replace(application=mark)
        steps = way("Waiting", "Matched")
        self._client.set_statuses({job: [told._replace(status=step) for step in steps] for job in chosen}, budget)
        seen = self._client.look(list(chosen), budget)
        ours = {job: row for job, row in seen.items() if (row.status, row.application_status) == ("Matched", mark)}
        self._client.set_sites(dict.fromkeys(ours, self._settings.site), budget)
        found = []
        for job, row in ours.items():
            attempt = attempt_of(chosen[job])
            kept = Kept(site=chosen[job].site or "ANY", rescheduled=row.reschedule_time or "")
            found.append(given(self._known.pop((job, attempt)), job, attempt, kept))
        return found
