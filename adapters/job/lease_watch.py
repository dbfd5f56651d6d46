"""How far the lease clock may go on, and when. Pure: the ledger's rows and a monotonic time go in, advice comes out.

The keeper of the clock puts a mark among the beats. Once it has come back, all beats before it were given to some
adapter; once each of several adapters has emptied its hands twice since, they are written down. Only then has the time
up to that mark passed, and never more of it at once than ``most_step_s``: what held the beats up held the clock up too.
"""

from __future__ import annotations

from typing import NamedTuple

from adapters.ledger.clock import Readers

#: An adapter that has not taken its turn for this long holds nothing any more, seconds: the broker gives up a client
#: after three missed AMQP heartbeats of 10 s, and gives its messages to others.
GONE_S = 60.0
#: A mark that has not come back by now went with its link, seconds.
MARK_LOST_S = 30.0
#: Turns of an adapter after which nothing is left in its hands that it had at the first look: one may be under way.
TURNS = 2


class Advice(NamedTuple):
    """What the keeper may do now."""

    #: How far the clock may go on, seconds.
    step_s: float = 0.0
    #: Take the clock over from who keeps it: it is gone.
    takes_over: bool = False
    #: Adapters to forget.
    gone: tuple[str, ...] = ()


class _Mark(NamedTuple):
    id: str
    sent_s: float


class LeaseWatch:
    """See the module. One for each adapter; times are its own machine's monotonic ones."""

    def __init__(self, adapter: str, *, most_step_s: float, gone_s: float = GONE_S) -> None:
        self._adapter, self._most_step_s, self._gone_s = adapter, most_step_s, gone_s
        self._heard: dict[str, tuple[int, float]] = {}
        self._mark: _Mark | None = None
        #: Turns that all adapters must have reached; None while the mark is under way.
        self._awaited: dict[str, int] | None = None
        self._passed_s: float | None = None
        self._keeps = False

    def wants_mark(self, now_s: float) -> bool:
        """Whether to put a mark among the beats now."""
        is_lost = self._mark is not None and self._awaited is None and now_s - self._mark.sent_s > MARK_LOST_S
        return self._keeps and (self._mark is None or is_lost)

    def sent(self, mark: str, now_s: float) -> None:
        """Note that a mark is under way, since ``now_s`` at the latest."""
        self._mark, self._awaited = _Mark(mark, now_s), None

    def look(self, found: Readers, now_s: float) -> Advice:
        """Say what follows from what is in the ledger."""
        gone = self._gone(found, now_s)
        others = {name: one.turns for name, one in found.readers.items() if name not in (self._adapter, *gone)}
        if found.kept_by != self._adapter:
            self._stand_back()
            return Advice(takes_over=found.kept_by not in others, gone=gone)
        self._keeps = True
        return Advice(self._step(found, others), gone=gone)

    def _gone(self, found: Readers, now_s: float) -> tuple[str, ...]:
        for name, reader in found.readers.items():
            if self._heard.get(name, (-1, 0.0))[0] != reader.turns:
                self._heard[name] = (reader.turns, now_s)
        self._heard = {name: heard for name, heard in self._heard.items() if name in found.readers}
        silent = {name for name, (_, since_s) in self._heard.items() if now_s - since_s > self._gone_s}
        return tuple(sorted(silent - {self._adapter}))

    def _stand_back(self) -> None:
        self._keeps, self._mark, self._awaited, self._passed_s = False, None, None, None

    def _step(self, found: Readers, others: dict[str, int]) -> float:
        own = found.readers.get(self._adapter)
        if self._mark is None or own is None or own.mark != self._mark.id:
            return 0.0
        if self._awaited is None:
            alike = {**others, self._adapter: own.turns} if others else {}
            self._awaited = {name: turns + TURNS for name, turns in alike.items()}
        reached = {**others, self._adapter: own.turns}
        if any(reached.get(name, turns) < turns for name, turns in self._awaited.items()):
            return 0.0
        passed_s, self._passed_s = self._passed_s, self._mark.sent_s
        self._mark, self._awaited = None, None
        return 0.0 if passed_s is None else min(self._most_step_s, self._passed_s - passed_s)
