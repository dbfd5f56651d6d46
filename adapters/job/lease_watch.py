"""How far the lease clock may go on, and when. Pure: the ledger's rows and a monotonic time go in, advice comes out.

Every adapter puts a mark among the beats at each sweep. Once one has come back, all beats before it were given to some
adapter; once each of several adapters has emptied its hands twice since, they are written down. Then the time up to
that mark has been *served*. However long that takes, the next marks are under way meanwhile, so the clock follows real
time at a distance. Where no mark was taken for a while nobody could be heard, and little of that while counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from adapters.ledger.clock import Reader, Readers

#: An adapter that has not taken its turn for this long holds nothing any more, seconds: the broker gives up a client
#: after three missed AMQP heartbeats of 10 s, and gives its messages to others.
GONE_S = 60.0
#: Turns of an adapter after which nothing is left in its hands that it had at the first look: one may be under way.
TURNS = 2
#: How much faster than real time the clock may go while it catches up: guests must have time to beat meanwhile.
PACE = 1.5
#: What the clock may have to catch up at most, seconds: what it owes for an adapter that was found to be gone.
MOST_OWED_S = 2 * GONE_S
#: Looks in which who does not keep the clock lets go of most of a distance from what has been served that was smaller.
FEW = 16
#: Marks under way, and looks at which some came back, that are remembered; those of the last minutes are enough.
MOST_MARKS = 64
#: How often a look waits anew since an adapter went away: one that is always restarted holds nobody up.
MOST_ANEW = 2


class Advice(NamedTuple):
    """What this adapter may do now."""

    #: How far the clock may go on, seconds.
    step_s: float = 0.0
    #: Take the clock over from who keeps it: it is gone, or does not let it go on.
    takes_over: bool = False
    #: Adapters to forget.
    gone: tuple[str, ...] = ()


class _Mark(NamedTuple):
    id: str
    sent_s: float


class _Served(NamedTuple):
    """Time that has been served once all adapters have taken these turns."""

    seconds: float
    awaited: dict[str, int]
    #: How often it has waited anew.
    times: int = 0


class LeaseWatch:
    """See the module. One for each adapter; times are its own machine's monotonic ones.

    Who does not keep the clock counts all the same what is served, and how the clock follows it, to be able to go on.
    """

    def __init__(self, adapter: str, *, most_gap_s: float, gone_s: float = GONE_S) -> None:
        """``most_gap_s``: what counts at most of the time between two marks, or two looks."""
        self._adapter, self._most_gap_s, self._gone_s = adapter, most_gap_s, gone_s
        self._looked_s: float | None = None
        #: The turns that others had taken when they last took one, and for how long they have been silent since.
        self._silent: dict[str, tuple[int, float]] = {}
        self._marks: deque[_Mark] = deque(maxlen=MOST_MARKS)
        self._passed_s: float | None = None
        self._served: deque[_Served] = deque(maxlen=MOST_MARKS)
        #: All that has been served; how much more than the clock shows while it follows well; when it last moved.
        self._total_s = 0.0
        self._lead_s: float | None = None
        self._moved_at_s = 0.0
        self._clock: tuple[int, str] = (0, "")

    def sent(self, mark: str, now_s: float) -> None:
        """Note that a mark is under way, since ``now_s`` at the latest."""
        self._marks.append(_Mark(mark, now_s))

    def not_taken(self, mark: str) -> None:
        """Note that the broker has not taken it: at that time nobody could be heard."""
        self._marks = deque((one for one in self._marks if one.id != mark), maxlen=MOST_MARKS)

    def look(self, found: Readers, now_s: float) -> Advice:
        """Say what follows from what is in the ledger."""
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, self._most_gap_s)
        self._looked_s = now_s
        gone = self._gone(found.readers, passed_s)
        present = {name: one.turns for name, one in found.readers.items() if name not in gone}
        self._release(present)
        if own := found.readers.get(self._adapter):
            self._take_back(own, present)
        return self._advise(found, present, passed_s)._replace(gone=gone)

    def _gone(self, readers: Mapping[str, Reader], passed_s: float) -> tuple[str, ...]:
        """Name those that are silent; for as long as we did not look ourselves, nobody was."""
        before = self._silent
        self._silent = {
            name: (one.turns, before[name][1] + passed_s if before.get(name, (-1, 0.0))[0] == one.turns else 0.0)
            for name, one in readers.items()
            if name != self._adapter
        }
        return tuple(sorted(name for name, (_, silent_s) in self._silent.items() if silent_s > self._gone_s))

    def _take_back(self, own: Reader, present: Mapping[str, int]) -> None:
        """See which mark has come back, and with it those before: what lies between them will have been served."""
        if all(mark.id != own.mark for mark in self._marks):
            return
        seconds, mark = 0.0, None
        while mark is None or mark.id != own.mark:
            mark = self._marks.popleft()
            seconds += 0.0 if self._passed_s is None else min(mark.sent_s - self._passed_s, self._most_gap_s)
            self._passed_s = mark.sent_s
        if len(present) == 1:
            self._total_s += seconds
        else:
            self._served.append(_Served(seconds, _two_turns_on(present)))

    def _release(self, present: Mapping[str, int]) -> None:
        """Count as served what everybody has written down. What an adapter held that has gone others have now."""
        self._served = deque((_without_the_gone(one, present) for one in self._served), maxlen=MOST_MARKS)
        while self._served and all(
            present.get(name, turns) >= turns for name, turns in self._served[0].awaited.items()
        ):
            self._total_s += self._served.popleft().seconds

    def _advise(self, found: Readers, present: Mapping[str, int], passed_s: float) -> Advice:
        is_keeper = found.kept_by == self._adapter
        ahead_s = self._total_s - found.now_ms / 1000
        if self._lead_s is None or not self._total_s:
            self._lead_s = ahead_s
        if (found.now_ms, found.kept_by) != self._clock:
            self._clock, self._moved_at_s = (found.now_ms, found.kept_by), self._total_s
            self._lead_s = self._lead_s if is_keeper else _settled_s(self._lead_s, ahead_s)
        self._lead_s = max(self._lead_s, ahead_s - MOST_OWED_S)
        if is_keeper:
            return Advice(max(0.0, min(ahead_s - self._lead_s, PACE * passed_s)))
        # Who has served nothing yet leaves it to those who know how far the clock may go on.
        is_free = found.kept_by not in present and (self._total_s > 0 or len(present) == 1)
        return Advice(takes_over=is_free or self._total_s - self._moved_at_s > self._gone_s)


def _settled_s(lead_s: float, ahead_s: float) -> float:
    """The clock has caught up when it is nearest to what has been served; jitter is let go of slowly."""
    return min(ahead_s, lead_s + (ahead_s - lead_s) / FEW)


def _two_turns_on(present: Mapping[str, int]) -> dict[str, int]:
    return {name: turns + TURNS for name, turns in present.items()}


def _without_the_gone(served: _Served, present: Mapping[str, int]) -> _Served:
    """Wait anew if somebody has gone, or been started anew: what it held went to others, who may have it in hand."""
    is_changed = any(present.get(name, -1) < turns - TURNS for name, turns in served.awaited.items())
    if not is_changed or served.times == MOST_ANEW:
        return served
    return served._replace(awaited=_two_turns_on(present), times=served.times + 1)
