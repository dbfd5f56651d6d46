"""Jobs that were taken at DIRAC and that nobody has written down: whoever took them ended between the two.

The word by which a job shows that it is taken, its mark, is another as soon as anything is said of the job, some
seconds after it was written down. One that keeps its mark for longer than that can take is let wait again, for the site
that it was for: the mark says which.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from adapters.sources.dirac.client import DiracClient, DiracRow
from adapters.sources.dirac.states import Told, way
from adapters.sources.http import Budget

log = logging.getLogger(__name__)

#: How long a job may bear its mark, seconds: the call that takes it has 30, writing it down a minute and the wait of a
#: last try, giving it back 30 again.
ORPHANED_S = 140.0
#: How often they are looked for where there may be some, and else, seconds.
LOOK_S, SELDOM_S = 45.0, 3600.0
_MARK = re.compile(r"(?P<name>\S+) (?P<call>[0-9a-f]{8}) (?P<site>\S+)")


class TakenMark(NamedTuple):
    """What a job bears that was taken, as its application status: by which source, in which call, and for which site
    it was."""

    name: str
    call: str
    site: str

    @staticmethod
    def new_call() -> str:
        """Name a call."""
        return secrets.token_hex(4)

    @classmethod
    def read(cls, words: str) -> TakenMark | None:
        """Read one; None where the words are none."""
        found = _MARK.fullmatch(words)
        return cls(*found.groups()) if found else None

    def __str__(self) -> str:
        return f"{self.name} {self.call} {self.site}"


class OrphanedJobs:
    """See the module. For one thread at a time."""

    def __init__(
        self, client: DiracClient, site: str, name: str, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._name, self._clock_s = client, name, clock_s
        self._sites = ["ANY", "Multiple", site]
        self._began_s = self._due_s = clock_s()
        #: When a mark was seen first.
        self._since_s: dict[tuple[int, TakenMark], float] = {}

    def give_back(self, held: Collection[int], budget: Budget) -> None:
        """Let them wait again, when it is time to look for them; what is ``held`` is none. Raises SourceUnavailable and
        SourceRefused; those that are left then are looked for the next time."""
        now_s = self._clock_s()
        if now_s < self._due_s:
            return
        marked = {key: row for key, row in self._marked(budget).items() if row.job not in held}
        self._since_s = {key: self._since_s.get(key, now_s) for key in marked}
        old = {key: row for key, row in marked.items() if now_s - self._since_s[key] >= ORPHANED_S}
        if old:
            self._let_wait({row.job: row for row in old.values()}, {job: mark.site for job, mark in old}, budget)
        self._due_s = now_s + self._pause_s(now_s)

    def _pause_s(self, now_s: float) -> float:
        if self._since_s:
            return LOOK_S
        # What an adapter before us had sent may arrive after our first look.
        return SELDOM_S if now_s - self._began_s >= ORPHANED_S else ORPHANED_S

    def _marked(self, budget: Budget) -> dict[tuple[int, TakenMark], DiracRow]:
        where: list[Mapping[str, Any]] = [
            {"parameter": "Status", "operator": "eq", "value": "Matched"},
            {"parameter": "Site", "operator": "in", "values": self._sites},
        ]
        rows = [(row, TakenMark.read(row.application_status)) for row in self._client.search(where, budget)]
        return {(row.job, mark): row for row, mark in rows if mark is not None and mark.name == self._name}

    def _let_wait(self, rows: Mapping[int, DiracRow], sites: Mapping[int, str], budget: Budget) -> None:
        log.warning("given back: nobody has written them down", extra={"jobs": sorted(rows)})
        told = Told("Waiting", "Given back: its adapter had ended")
        steps = [told._replace(status=status) for status in way("Matched", "Waiting")]
        self._client.set_statuses(dict.fromkeys(rows, steps), budget)
        waiting = [job for job, row in self._client.look(list(rows), budget).items() if row.status == "Waiting"]
        self._client.set_sites({job: sites[job] for job in waiting if rows[job].site != sites[job]}, budget)
