"""The VMs that the host's settings name: made where they are missing, and kept running."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from broker.backoff import backoff
from host_agent.config import WantedVm
from host_agent.control import VmControl
from host_agent.errors import HostError
from host_agent.keeper import Keeper
from host_agent.vm import Wish
from schemas.vms import VmCreate

log = logging.getLogger(__name__)


class WantedVms:
    """See the module."""

    def __init__(self, vms: Sequence[WantedVm], control: VmControl, keeper: Keeper) -> None:
        self._vms, self._control, self._keeper = vms, control, keeper

    def names(self, name: str) -> bool:
        """Say whether a VM of that name is wanted."""
        return any(wanted.name == name for wanted in self._vms)

    async def run(self) -> None:
        """Have all of them, and those run that shall; what cannot be made now is tried again."""
        self._keeper.keep_all()
        missing = list(self._vms)
        for wait_s in backoff(1.0, 300.0):
            missing = [wanted for wanted in missing if not await self._have(wanted)]
            if not missing:
                return
            await asyncio.sleep(wait_s)

    async def _have(self, wanted: WantedVm) -> bool:
        """Make one, and have it kept; False if that failed."""
        order = VmCreate(
            name=wanted.name,
            cpus=wanted.cpus,
            memory_mib=wanted.memory_mib,
            disk_mib=wanted.disk_mib,
            autostart=True,
        )
        try:
            made = await self._control.create(order, wish=Wish.RUNNING)
        except HostError as error:
            log.error("wanted vm not made", extra={"vm": wanted.name, "why": str(error)})
            return False
        self._keeper.keep(made.vm)
        return True
