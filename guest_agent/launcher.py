"""Attempts are launched when the disk has room for them and it is written down that they begin, not before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from broker.backoff import backoff
from broker.daemon.tasks import OwnedTasks
from guest_agent.attempt import Attempt
from guest_agent.completions import Completions
from guest_agent.resources import Resources
from guest_agent.slot import Slot

log = logging.getLogger(__name__)


class Launcher:
    """See the module. ``tasks`` owns what goes on."""

    def __init__(self, resources: Resources, completions: Completions, tasks: OwnedTasks) -> None:
        self._resources, self._completions, self._tasks = resources, completions, tasks

    async def begin(self, slot: Slot, attempt: Attempt) -> None:
        """Have it written down that it begins. Those behind it that will soon do so are written down with it, or, when
        few are left that are, while it runs: so short jobs do not wait for a disk one by one."""
        await self._have_room(attempt)
        soon = slot.soon()
        fresh = [one for one in (attempt, *soon) if one.noted is None]
        if attempt.noted is None or (fresh and 2 * len(fresh) >= len(soon)):
            noted = self._tasks.spawn(self._note(fresh))
            for one in fresh:
                one.noted = noted
        if attempt.noted is not None:
            await asyncio.shield(attempt.noted)

    async def _have_room(self, attempt: Attempt) -> None:
        """On a short disk wait until what has ended is gone: a job must not suffer for what one before it has left."""
        if self._resources.disk.is_short(attempt.assign.disk_mib << 20):
            attempt.trouble = "the disk is short: it begins when files of jobs that have ended are removed"
            await self._completions.settle()
            attempt.trouble = ""

    async def _note(self, attempts: Sequence[Attempt]) -> None:
        """Until it is durable that one begins it does not; a disk that is full is waited for."""
        for wait_s in backoff(0.2, 20.0):
            try:
                await self._resources.journal.begin([one.assign.id for one in attempts])
                attempts[0].trouble = ""
                return
            except OSError as error:
                attempts[0].trouble = f"its begin cannot be written down: {error.strerror}: {error.filename}"
                log.error("begin not written", extra={"job": attempts[0].assign.job, "why": str(error)})
                await asyncio.to_thread(self._resources.cache.make_room, 1 << 62)
                await asyncio.sleep(wait_s)
