"""A run's archives at work: in a thread, held up and broken off as the client wants it."""

from __future__ import annotations

import asyncio
import logging
import time

from host_agent.boinc.archives import chosen, pack, unpack_once
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.plan import RunPlan, ZipOutput
from host_agent.boinc.slot_names import SlotNames
from host_agent.errors import Interrupted

log = logging.getLogger(__name__)

#: Between two looks at a client that wants us to stand still, seconds.
LOOK_S = 0.1


class ArchiveWork:
    """See the module. Raises BadArchive, BadName, OSError, and Interrupted when the client wants an end."""

    def __init__(self, plan: RunPlan, names: SlotNames, link: ClientLink, disk_bytes: float) -> None:
        self._plan, self._names, self._link, self._disk_bytes = plan, names, link, disk_bytes

    async def unpack(self) -> None:
        """Unpack what there is to be unpacked, once."""
        archives = [(name, self._names.source(name)) for name in self._plan.unzip]
        await asyncio.to_thread(unpack_once, self._names.slot, archives, self._disk_bytes, self._pause)

    async def pack(self, output: ZipOutput) -> None:
        """Make an archive of what is new."""
        target, files = self._names.target(output.archive), chosen(self._names.slot, output)
        await asyncio.to_thread(pack, self._names.slot, output.archive, files, target, self._pause)
        log.info("packed %d files into %s", len(files), output.archive)

    def _pause(self) -> None:
        """In the thread: stand still while the client wants it."""
        while (will := self._link.will).is_suspended or will.must_end:
            if will.must_end:
                raise Interrupted("told to end while archives were worked on; that is done again at the next start")
            time.sleep(LOOK_S)
