"""Waiting jobs of several owners, handed out by turn: see ``fair_share``. Within an owner's turn, ``backlog``. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

from adapters.ledger.backlog import MOST_REFUSED, Ask, Backlog
from adapters.ledger.fair_share import FairShare
from adapters.ledger.matching import Free, Waiting

#: Owners of whom nothing fits an offer, after which it is looked up of whom something does.
MOST_IN_VAIN = 4
#: Jobs of all owners together that one slot is refused before it is given none: a few owners' worth.
MOST_REFUSED_IN_ALL = 4 * MOST_REFUSED


class OwnersBacklog:
    """See the module."""

    def __init__(
        self,
        turns: FairShare,
        line_of: Callable[[str], Backlog],
        fitting: Callable[[int], Collection[str]],
        cpus: Callable[[int], int],
    ) -> None:
        """``line_of`` makes an owner's backlog; ``fitting`` names the owners of whose waiting jobs some fit an offer;
        ``cpus`` says what a shape asks for."""
        self._turns, self._line_of, self._fitting, self._cpus = turns, line_of, fitting, cpus
        self._lines: dict[str, Backlog] = {}
        #: Offers with the owners of whom nothing fits them, and with those of whom something does.
        self._in_vain: dict[int, set[str]] = {}
        self._hopeful: dict[int, Collection[str]] = {}
        self._looked_at: list[Backlog] = []

    def first_for(self, free: Free, ask: Ask) -> Waiting | None:
        """Hand out the first job of the first owner that has one for this slot; see ``Backlog``."""
        self._looked_at = []
        in_vain = self._in_vain.setdefault(free.offer, set())
        for owner in self._turns:
            if owner in in_vain or not self._may_hope(owner, free.offer):
                continue
            line = self._line(owner)
            job = line.first_for(free, ask)
            self._looked_at.append(line)
            if job is not None:
                self._turns.serve(owner, self._cpus(job.shape))
                return job
            if line.must_wait or self._refused >= MOST_REFUSED_IN_ALL:
                return None
            if not line.was_refused:
                in_vain.add(owner)
        return None

    @property
    def was_refused(self) -> bool:
        """As ``Backlog``."""
        return any(line.was_refused for line in self._looked_at)

    @property
    def may_hide_more(self) -> bool:
        """As ``Backlog``."""
        if not self._looked_at or self._looked_at[-1].must_wait:
            return False
        return self._refused >= MOST_REFUSED_IN_ALL or any(line.may_hide_more for line in self._looked_at)

    @property
    def is_spent(self) -> bool:
        """As ``Backlog``."""
        return all(owner in self._lines and self._lines[owner].is_spent for owner in self._turns)

    @property
    def _refused(self) -> int:
        return sum(line.refused for line in self._looked_at)

    def _line(self, owner: str) -> Backlog:
        if owner not in self._lines:
            self._lines[owner] = self._line_of(owner)
        return self._lines[owner]

    def _may_hope(self, owner: str, offer: int) -> bool:
        """Whether something of this owner may fit: not looked up before some others have turned out to have nothing."""
        if offer not in self._hopeful and len(self._in_vain[offer]) >= MOST_IN_VAIN:
            self._hopeful[offer] = set(self._fitting(offer))
        return owner in self._hopeful.get(offer, (owner,))
