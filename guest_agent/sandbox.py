"""An attempt's own directory and its slot's scratch space, from its making to its removal.

While the payload runs both are its own; afterwards they are the agent's again, and the next payload in the slot finds
nothing of it.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from guest_agent.container import Container
from guest_agent.directory import Directory
from guest_agent.resources import directory_name
from schemas.jobs import JobAssign

log = logging.getLogger(__name__)


class Sandbox:
    """See the module. ``aside`` is where goes what cannot be removed at once."""

    def __init__(self, assign: JobAssign, container: Container, aside: Path) -> None:
        self.name = directory_name(assign)
        self.slot_directory = container.slot_directory
        self._job, self._array = assign.job, assign.job.rpartition(".")[0]
        self._container, self._aside = container, aside
        self._directory: Directory | None = None
        #: The array whose next attempt may have the directory, once this one has left it as it was made.
        self._left_to = ""

    @property
    def directory(self) -> Directory:
        """What ``make`` made."""
        if self._directory is None:
            raise RuntimeError("an attempt is run before its directory was made")
        return self._directory

    async def make(self) -> Directory:
        """Make the directory, in a container that is open. Raises NotContained, OSError."""
        await self._container.open()
        self._directory = self.slot_directory.make(self.name, self._array)
        return self._directory

    def take_back(self) -> None:
        """Let no payload into the directory any more."""
        self.slot_directory.take_back(self.directory)

    async def leave(self) -> None:
        """Nothing of it runs: close the directory, and have scratch space that is clear. Once, made or not."""
        if self._directory is not None:
            self.slot_directory.take_back(self._directory)
            self._left_to = self._array if self.slot_directory.is_as_made(self._directory) else ""
            self._directory.close()
        if self.slot_directory.is_clear():
            return
        try:
            await asyncio.to_thread(self.slot_directory.clear_scratch)
        except OSError as error:
            log.error("scratch not cleared", extra={"slot": str(self.slot_directory.path), "why": str(error)})
            self.slot_directory.renew_scratch(self._aside)
            self._container.close()

    def remove(self) -> None:
        """Remove the directory, or leave it to the next attempt of its array. What cannot be is told. Blocking."""
        left_to, self._left_to = self._left_to, ""
        try:
            self.slot_directory.remove(self.name, left_to)
        except OSError as error:
            log.error("files not removed", extra={"job": self._job, "why": str(error)})
