"""Whose job is served next: owners take turns, so that each has its share of the machines' time. Pure.

Stride scheduling. An owner *passes* what its jobs take: a job's cpus times what jobs of this owner take on average,
over its share. The owner that has passed least is next. Nobody saves up: who comes back after a while, or whose jobs
fitted nothing, begins where the others are. Who has ended no job yet is taken to be as slow as the slowest.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: What a job is taken to take where no owner has ended one, ms; and bounds of the average.
UNKNOWN_MS, LEAST_MS, MOST_MS = 60_000, 1000, 7 * 86_400_000
#: One job moves the average by this part of the difference; of one that took long beyond it, by so many averages.
WEIGHT, MOST_AVERAGES = 16, 16


class OwnerAccount(NamedTuple):
    """What is known of an owner: its share, what it has passed, and what its jobs take on average; 0 = unknown."""

    owner: str
    share: int = 1
    passed: int = 0
    takes_ms: int = 0

    def learnt(self, took_ms: int) -> OwnerAccount:
        """Put what one of its jobs took into the average. One that its VM kept for days is not believed at once."""
        took_ms = min(max(took_ms, LEAST_MS), MOST_MS)
        if not self.takes_ms:
            return self._replace(takes_ms=took_ms)
        step = (min(took_ms, MOST_AVERAGES * self.takes_ms) - self.takes_ms) // WEIGHT
        return self._replace(takes_ms=max(LEAST_MS, self.takes_ms + step))


class FairShare:
    """Owners in the order in which they are served. Iterate, and say each time who was."""

    def __init__(self, accounts: Iterable[OwnerAccount], at: int = 0) -> None:
        """``at`` is what the owner had passed that was served last."""
        self._accounts = {one.owner: one for one in accounts}
        self._unknown_ms = max((one.takes_ms for one in self._accounts.values()), default=0) or UNKNOWN_MS
        self._order = sorted((max(one.passed, at), one.owner) for one in self._accounts.values())
        self._passed = {owner: passed for passed, owner in self._order}
        self.at = at

    def __iter__(self) -> Iterator[str]:
        """Name the owners, the next one first. Ends when one is served."""
        for _, owner in self._order:
            yield owner

    def serve(self, owner: str, cpus: int) -> None:
        """Note that a job of this owner goes to a slot."""
        account, passed = self._accounts[owner], self._passed[owner]
        del self._order[bisect_left(self._order, (passed, owner))]
        self.at = max(self.at, passed)
        self._passed[owner] = passed + max(1, (account.takes_ms or self._unknown_ms) * cpus // account.share)
        insort(self._order, (self._passed[owner], owner))

    def accounts(self) -> list[OwnerAccount]:
        """Give the accounts as they are now."""
        return [one._replace(passed=self._passed[owner]) for owner, one in self._accounts.items()]
