"""Waiting jobs of several owners, handed out by share (see ``fair_share``); of one owner see ``backlog``. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

from adapters.ledger.backlog import MOST_REFUSED, Ask, Backlog
from adapters.ledger.fair_share import FairShare
from adapters.ledger.matching import Free, Waiting

#: Owners of whom nothing fits an offer, after which it is looked up of whom something does.
MOST_IN_VAIN = 4
#: Refusals after which each further owner has ``FEW`` for one slot.
MANY_REFUSED, FEW = 4 * MOST_REFUSED, 4


class OwnersBacklog:
    """See the module."""

    def __init__(
        self,
        turns: FairShare,
        line_of: Callable[[str], Backlog],
        fitting: Callable[[int], Collection[str]],
        weigh: Callable[[Waiting, Free], int],
    ) -> None:
        """``line_of`` makes an owner's backlog; ``fitting`` names the owners of whose waiting jobs some fit an offer;
        ``weigh`` says what a job would occupy there."""
        self._turns, self._line_of, self._fitting, self._weigh = turns, line_of, fitting, weigh
        self._lines: dict[str, Backlog] = {}
        #: Offers with the owners of whom nothing fits them, and with those of whom something does.
        self._in_vain: dict[int, set[str]] = {}
        self._hopeful: dict[int, Collection[str]] = {}
        self._looked_at: list[Backlog] = []

    def first_for(self, free: Free, ask: Ask) -> Waiting | None:
        """Hand out the first job of the first owner that has one for this slot; see ``Backlog``."""
        self._looked_at, refused = [], 0
        in_vain = self._in_vain.setdefault(free.offer, set())
        for owner in self._turns:
            if owner in in_vain or not self._may_hope(owner, free.offer):
                continue
            line = self._line(owner)
            job = line.first_for(free, ask, MOST_REFUSED if refused < MANY_REFUSED else FEW)
            self._looked_at.append(line)
            if job is not None:
                self._turns.serve(owner, self._weigh(job, free))
                return job
            if line.must_wait:
                return None
            refused += line.refused
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
        return any(line.may_hide_more for line in self._looked_at)

    @property
    def is_spent(self) -> bool:
        """As ``Backlog``."""
        return all(owner in self._lines and self._lines[owner].is_spent for owner in self._turns)

    def _line(self, owner: str) -> Backlog:
        if owner not in self._lines:
            self._lines[owner] = self._line_of(owner)
        return self._lines[owner]

    def _may_hope(self, owner: str, offer: int) -> bool:
        """Whether something of this owner may fit: not looked up before some others have turned out to have nothing."""
        if offer not in self._hopeful and len(self._in_vain[offer]) >= MOST_IN_VAIN:
            self._hopeful[offer] = set(self._fitting(offer))
        return owner in self._hopeful.get(offer, (owner,))
