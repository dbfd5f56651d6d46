"""Whose job is served next: owners share the machines by what they have of them, and had lately. Pure.

Each owner *uses* what its attempts occupy of VMs that run, in cpus, by the ledger's own clock; what was used counts
half after a half-life, so nothing that one is owed or owes lasts. The owner that uses least for its share is next, and
what it has now counts as if it went on for a while: so slots that come free together are shared, and not all one
owner's. No word of a guest or of a site decides anything here, and nobody can save up.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from math import log
from typing import NamedTuple

#: How long what is used counts, ms: half after that time.
HALF_LIFE_MS = 4 * 3_600_000
#: Longest time between two counts that is all charged, ms.
MOST_GAP_MS = 60_000
#: For how long what an owner has now is taken to go on, ms.
AHEAD_MS = 60_000


class OwnerAccount(NamedTuple):
    """What is known of an owner: its share, what it has used lately, cpu-ms, and what it occupies now, thousandths of a
    cpu: as it was counted last, and what was given to it since."""

    owner: str
    share: int = 1
    used: int = 0
    occupied: int = 0

    @property
    def place(self) -> float:
        """Where it stands in the order; lower is sooner."""
        return (self.used + self.occupied * AHEAD_MS // 1000) / self.share

    def after(self, passed_ms: int, occupied: int) -> OwnerAccount:
        """Give the account after some time in which it occupied so much, of which the last part counts: before that
        nobody else wanted anything."""
        left = 0.5 ** (passed_ms / HALF_LIFE_MS)
        gained = occupied / 1000 * HALF_LIFE_MS / log(2) * (1 - 0.5 ** (min(passed_ms, MOST_GAP_MS) / HALF_LIFE_MS))
        return self._replace(used=round(self.used * left + gained), occupied=occupied)


class FairShare:
    """Owners in the order in which they are served. Iterate, and say each time who was."""

    def __init__(self, accounts: Iterable[OwnerAccount]) -> None:
        self._accounts = {one.owner: one for one in accounts}
        self._order = sorted((one.place, one.owner) for one in self._accounts.values())

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        """Name the owners, the next one first. Ends when one is served."""
        for _, owner in self._order:
            yield owner

    def serve(self, owner: str, occupied: int) -> None:
        """Note that an owner is given a job that occupies so much, thousandths of a cpu."""
        before = self._accounts[owner]
        after = self._accounts[owner] = before._replace(occupied=before.occupied + occupied)
        del self._order[bisect_left(self._order, (before.place, owner))]
        insort(self._order, (after.place, owner))
