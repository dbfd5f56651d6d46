"""The last word on jobs at their grid: final statuses, set of many in one call, and where that grid needs it looked at
once more, later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from adapters.errors import AdapterError, CatalogueRefused, GridStoreRefused
from adapters.ledger import deliveries
from adapters.ledger.deliveries import AFFIRM, ENDED, Key
from adapters.ledger.transaction import Tx
from adapters.sources.at_work import AtWork
from adapters.sources.contract import GridEnding, GridSource
from adapters.sources.end_delivery import EndDelivery
from adapters.sources.lane import Lane

#: What the same asked again will not change: a person looks. A grid that refuses is asked again: it may be us whom it
#: refuses, or one job among many.
FINAL = (GridStoreRefused, CatalogueRefused)
#: How often it looks whether there is something to say, seconds; it is woken for that.
LOOK_S = 1.0
#: Jobs of which it keeps at once what is to be said; beyond them no more are taken.
MOST_KEPT = 500
#: Tells a grid of jobs, and gives why some were not told.
Tell = Callable[[Sequence[GridEnding]], Mapping[str, str]]


class Reporting:
    """See the module; ``turn`` is that of a lane of its own: no upload holds up a final status. Belongs to one loop."""

    def __init__(self, source: GridSource, lane: Lane, at_work: AtWork[Key]) -> None:
        self._source, self._lane, self._at_work = source, lane, at_work
        self._ready: list[EndDelivery] = []
        self._being_said: list[EndDelivery] = []

    @property
    def keys(self) -> list[Key]:
        """Name what it has, and of which it is not written down that it was told."""
        return [one.key for one in (*self._being_said, *self._ready)]

    @property
    def has_room(self) -> bool:
        """Whether more may be taken of which it will have to say something."""
        return len(self._being_said) + len(self._ready) < MOST_KEPT

    def add(self, one: EndDelivery) -> None:
        """Have the last word said: of this job it is all that is left."""
        self._ready.append(one)
        self._lane.wake()

    async def turn(self) -> float:
        """Say all that there is to say. Raises LedgerError; what was not said is in doubt then."""
        self._being_said, self._ready = self._ready, []
        try:
            with self._at_work.doubting():
                for what, tell in ((ENDED, self._source.finish), (AFFIRM, self._source.affirm)):
                    for some in _apart([one for one in self._being_said if one.key.what == what]):
                        await self._say(what, tell, some)
        finally:
            self._being_said = []
        return 0.0 if self._ready else LOOK_S

    async def _say(self, what: str, tell: Tell, ready: Sequence[EndDelivery]) -> None:
        keys = {one.ending.job.id: one.key for one in ready}
        word = "report" if what == ENDED else "affirm"
        try:
            refused = await self._lane.call(tell, [one.ending for one in ready])
        except (AdapterError, OSError) as error:
            self._lane.trouble(str(error))
            words = dict.fromkeys(keys.values(), f"{word}: {error}")
            await self._at_work.write(partial(note, words, False))
            return
        failed = {keys[name]: f"{word}: {why}" for name, why in refused.items() if name in keys}
        done = [key for name, key in keys.items() if name not in refused]
        self._lane.trouble(f"{len(failed)} final statuses: {next(iter(failed.values()))}" if failed else "")
        after_s = self._source.affirm_after_s if what == ENDED else 0.0
        await self._at_work.write(partial(_settle, what, done, failed, after_s))


def _apart(ready: Sequence[EndDelivery]) -> Iterator[list[EndDelivery]]:
    """Put two tries of one job into different calls, each call having one word for a job."""
    calls: list[dict[str, EndDelivery]] = []
    for one in ready:
        name = one.ending.job.id
        call = next((call for call in calls if name not in call), None)
        if call is None:
            calls.append(call := {})
        call[name] = one
    return (list(call.values()) for call in calls)


def note(words: Mapping[Key, str], is_final: bool, tx: Tx) -> None:
    """Write down why deliveries did not come off: a person looks at once, or they are tried again."""
    tx.counts["told_held" if is_final else "told_failed"] += len(words)
    (deliveries.hold if is_final else deliveries.failed)(tx, words)


def _settle(what: str, done: Sequence[Key], failed: Mapping[Key, str], after_s: float, tx: Tx) -> None:
    tx.counts["told_done"] += len(done) if what == ENDED else 0
    tx.counts["told_failed"] += len(failed)
    if after_s:
        deliveries.affirm(tx, done, after_s)
    else:
        deliveries.done(tx, done)
    deliveries.failed(tx, failed)
