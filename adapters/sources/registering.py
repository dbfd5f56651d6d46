"""Having a catalogue know what jobs have left in a grid's store: of many jobs in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.catalogues.contract import Catalogue, Replica
from adapters.errors import CatalogueRefused
from adapters.sources.end_delivery import EndDelivery, copies_of
from adapters.sources.gathering import Gathering
from adapters.sources.lane import Lane

#: Jobs whose copies a catalogue is told in one call.
MOST_TOGETHER = 100


class Registering:
    """See the module. Belongs to one loop."""

    def __init__(self, catalogue: Catalogue | None, lane: Lane) -> None:
        """Without a catalogue nothing is registered."""
        self._catalogue, self._lane = catalogue, lane
        self._known = Gathering(self._make_known, MOST_TOGETHER)

    async def register(self, one: EndDelivery, *, alone: bool) -> None:
        """Have a job's copies known, in one call with others' or alone. Raises CatalogueError; what is refused of one
        job is no other's trouble."""
        copies = copies_of(one) if self._catalogue is not None else []
        if not copies:
            return
        all_refused = await self._known.add(copies, alone=alone)
        refused = {copy.name: all_refused[copy.name] for copy in copies if copy.name in all_refused}
        if refused:
            name, why = next(iter(refused.items()))
            raise CatalogueRefused(f"{len(refused)} of {len(copies)} files are not registered, as {name}: {why}")

    async def _make_known(self, jobs: Sequence[Sequence[Replica]]) -> Mapping[str, str]:
        if self._catalogue is None:
            return {}
        return await self._lane.call(self._catalogue.register, [copy for copies in jobs for copy in copies])
