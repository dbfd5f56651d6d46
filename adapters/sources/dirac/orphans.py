"""Jobs that were taken at DIRAC and that nobody may have written down: whoever took them ended between the two.

The word by which a job shows that it is taken, its mark, is another as soon as anything is said of the job. One that
keeps its mark for longer than it takes to write it down is named; whether the ledger has it is not known here.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from adapters.sources.contract import GridJob
from adapters.sources.dirac.client import DiracClient, DiracRow
from adapters.sources.dirac.jobs import Kept, attempt_of, named
from adapters.sources.http import Budget

#: How long a job may bear its mark, seconds: the call that takes it has 30, writing it down a minute and the wait of a
#: last try, giving it back 30 again.
ORPHANED_S = 140.0
#: How often they are looked for where there may be some, and else, seconds.
LOOK_S, SELDOM_S = 45.0, 3600.0
#: Jobs that are matched and looked at in one question, and questions in a row.
PAGE, MOST_PAGES = 200, 10
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
        self._client, self._site, self._name, self._clock_s = client, site, name, clock_s
        self._sites = ("ANY", "Multiple", site)
        self._began_s = self._due_s = clock_s()
        #: When a mark was seen first, or its job was named.
        self._since_s: dict[tuple[int, TakenMark], float] = {}

    def find(self, held: Collection[int], budget: Budget) -> list[GridJob]:
        """Name those that have borne their marks for long, when it is time to look for them; what is ``held`` is none.
        Each is ours at the grid. Raises SourceUnavailable and SourceRefused."""
        now_s = self._clock_s()
        if now_s < self._due_s:
            return []
        self._due_s = now_s + LOOK_S  # where the grid is in trouble
        marked = {key: row for key, row in self._marked(budget).items() if row.job not in held}
        since_s = {key: self._since_s.get(key, now_s) for key in marked}
        old = {key: row for key, row in marked.items() if now_s - since_s[key] >= ORPHANED_S}
        self._since_s = since_s | dict.fromkeys(old, now_s)
        self._client.set_sites({row.job: self._site for row in old.values() if row.site != self._site}, budget)
        self._due_s = now_s + self._pause_s(now_s)
        return [_named(row, mark) for (_, mark), row in old.items()]

    def _pause_s(self, now_s: float) -> float:
        if self._since_s:
            return LOOK_S
        # What an adapter before us had sent may arrive after our first look.
        return SELDOM_S if now_s - self._began_s >= ORPHANED_S else ORPHANED_S

    def _marked(self, budget: Budget) -> dict[tuple[int, TakenMark], DiracRow]:
        where: list[Mapping[str, Any]] = [
            {"parameter": "Status", "operator": "eq", "value": "Matched"},
            {"parameter": "Site", "operator": "in", "values": list(self._sites)},
        ]
        found: dict[tuple[int, TakenMark], DiracRow] = {}
        for page in range(1, MOST_PAGES + 1):
            rows = self._client.search(where, budget, page, PAGE)
            read = [(row, TakenMark.read(row.application_status)) for row in rows]
            found |= {(row.job, mark): row for row, mark in read if mark is not None and self._is_ours(mark)}
            if len(rows) < PAGE:
                break
        return found

    def _is_ours(self, mark: TakenMark) -> bool:
        """Whether we may have made a mark: a job's owner can set what is like one."""
        return mark.name == self._name and mark.site in self._sites


def _named(row: DiracRow, mark: TakenMark) -> GridJob:
    return named(row.job, attempt_of(row), Kept(site=mark.site, rescheduled=row.reschedule_time or ""))
