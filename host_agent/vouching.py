"""Telling the key manager which VMs this host has, so that none that it has forgotten keeps a login for ever.

Said when the link is new, and from time to time. A word that is lost is followed by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

from broker.daemon.wakeup import Wakeup
from broker.errors import BrokerError
from host_agent.errors import HostError
from schemas.enrol import EnrolVouch

log = logging.getLogger(__name__)

#: How often it is said, seconds; the key manager deletes nothing before it has heard it for an hour.
EVERY_S = 600.0


class Vouching:
    """See the module. ``vms`` gives the VMs that this host knows, and those that it has and does not know."""

    def __init__(
        self,
        vms: Callable[[], Awaitable[tuple[Collection[str], Collection[str]]]],
        say: Callable[[EnrolVouch], Awaitable[None]],
        *,
        every_s: float = EVERY_S,
    ) -> None:
        self._vms, self._say, self._every_s = vms, say, every_s
        self._wakeup = Wakeup()

    def look(self) -> None:
        """The link is new: say it at once."""
        self._wakeup.wake()

    async def run(self) -> None:
        """Say it, until cancelled."""
        while True:
            self._wakeup.clear()
            try:
                known, aside = await self._vms()
                await self._say(EnrolVouch(vms=sorted(known), aside=sorted(aside), target="keys"))
            except (BrokerError, HostError, OSError) as error:
                log.warning("not vouched, again later", extra={"why": str(error)})
            await self._wakeup.sleep(self._every_s)
