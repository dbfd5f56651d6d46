"""What was taken at a grid and never written down, found by its takings and given back, in a lane of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from adapters.ledger import acquisitions, takings
from adapters.ledger_writer import LedgerWriter
from adapters.sources.contract import GridSource
from adapters.sources.given import key_of
from adapters.sources.lane import Lane
from broker.daemon.tasks import wholly

log = logging.getLogger(__name__)

#: How often it is looked whether a taking has come to nothing, seconds.
LOOK_S = 15.0
#: Jobs that a log names.
MOST_NAMED = 20


class LostTakings:
    """See the module; ``turn`` is the lane's."""

    def __init__(self, name: str, source: GridSource, writer: LedgerWriter, lane: Lane) -> None:
        self._name, self._source, self._writer, self._lane = name, source, writer, lane

    async def turn(self) -> float:
        """See to a portion of the takings that are void, if there are any."""
        if not await self._writer.read(partial(takings.is_any_due, source=self._name)):
            return LOOK_S
        names = await self._writer.write(partial(takings.claim, source=self._name))
        try:
            await wholly(self._see_to(names))
        except Exception:
            # Not for later: while it cannot be done, that is told.
            await self._writer.write(partial(takings.give_up, source=self._name, names=names))
            raise
        return 0.0 if len(names) == takings.PORTION else LOOK_S

    async def _see_to(self, names: Sequence[str]) -> None:
        """Give back the jobs of takings of which nothing will be written down, but for what another has written down:
        of two that take one job at once both may see themselves as the later."""
        named = {key_of(self._name, job): job for job in await self._lane.call(self._source.taken, names)}
        lost = await self._writer.read(partial(acquisitions.unknown, keys=list(named))) if named else []
        if lost:
            some = ", ".join(key.id for key in lost[:MOST_NAMED])
            log.warning("taken and never written down: given back", extra={"jobs": len(lost), "such_as": some})
            await self._lane.call(self._source.release, [named[key] for key in lost], "nobody had written it down")
        await self._writer.write(partial(takings.seen_to, source=self._name, names=names, given_back=len(lost)))
