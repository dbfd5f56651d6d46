"""The last word on jobs at their grid: final statuses, set of many in one call, and where that grid needs it looked at
once more, later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from adapters.errors import AdapterError, CatalogueRefused, GridStoreRefused, SourceRefused
from adapters.ledger import deliveries
from adapters.ledger.deliveries import AFFIRM, ENDED, Key
from adapters.ledger.transaction import Tx
from adapters.sources.at_work import AtWork
from adapters.sources.contract import GridEnding, GridSource
from adapters.sources.end_delivery import EndDelivery
from adapters.sources.lane import Lane

#: What the same asked again will not change: a person looks.
FINAL = (SourceRefused, GridStoreRefused, CatalogueRefused)
#: Tells a grid of jobs, and gives why some were not told.
Tell = Callable[[Sequence[GridEnding]], Mapping[str, str]]


class Reporting:
    """See the module. Belongs to one loop; what it has is not at work by itself, see ``keys``."""

    def __init__(self, source: GridSource, lane: Lane, at_work: AtWork[Key]) -> None:
        self._source, self._lane, self._at_work = source, lane, at_work
        self._ready: list[EndDelivery] = []

    @property
    def keys(self) -> list[Key]:
        """Name what it has, and has not told."""
        return [one.key for one in self._ready]

    def add(self, one: EndDelivery) -> None:
        """Have the last word said with the next turn: of this job it is all that is left."""
        self._ready.append(one)

    async def turn(self) -> None:
        """Say all that there is to say. Raises LedgerError; what was not said is in doubt then."""
        ready, self._ready = self._ready, []
        for what, tell in ((ENDED, self._source.finish), (AFFIRM, self._source.affirm)):
            for some in _apart([one for one in ready if one.key.what == what]):
                await self._say(what, tell, some)

    async def _say(self, what: str, tell: Tell, ready: Sequence[EndDelivery]) -> None:
        keys = {one.ending.job.id: one.key for one in ready}
        word = "report" if what == ENDED else "affirm"
        try:
            refused = await self._lane.call(tell, [one.ending for one in ready])
        except (AdapterError, OSError) as error:
            words = f"{word}: {error}"
            self._lane.trouble(words)
            await self._at_work.write(partial(note, dict.fromkeys(keys.values(), words), isinstance(error, FINAL)))
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
