"""The host's beats: what it and its VMs are, told to the centre when something changed, else from time to time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from broker.daemon.wakeup import Wakeup
from broker.errors import BrokerError
from broker.rpc import Uplink
from host_agent.config import HostConfig
from host_agent.errors import HostError
from host_agent.facts import facts_of
from host_agent.hypervisors.contract import Hypervisor
from host_agent.statuses import VmStatuses
from schemas.errors import SchemaError
from schemas.vms import HostBye, HostInventory, InputFacts, VmGone

log = logging.getLogger(__name__)

#: How long the last word may take, seconds: whoever ends the agent waits for it.
BYE_TIMEOUT_S = 2.0


class HostBeats:
    """See the module."""

    def __init__(self, config: HostConfig, hypervisor: Hypervisor, statuses: VmStatuses, uplink: Uplink) -> None:
        self._config, self._hypervisor, self._statuses, self._uplink = config, hypervisor, statuses, uplink
        #: Names the VMs that were removed of late.
        self.gone: Callable[[], list[VmGone]] = list
        self._wakeup = Wakeup()
        #: Says what is kept of inputs. Blocking.
        self.inputs: Callable[[], InputFacts | None] = lambda: None

    def soon(self) -> None:
        """Something has changed: do not wait for the next beat."""
        self._wakeup.wake()

    async def run(self) -> None:
        """Beat until cancelled. A beat that is lost is followed by the next."""
        while True:
            self._wakeup.clear()
            try:
                await self._uplink.say("inventory", await self._inventory(), persistent=False)
            except (BrokerError, HostError, OSError, SchemaError) as error:
                log.warning("inventory not delivered", extra={"why": str(error)})
            await self._wakeup.sleep(self._config.beat_s)

    async def say_bye(self) -> None:
        """Tell the centre that there are no more beats, if it can be told in a moment."""
        try:
            async with asyncio.timeout(BYE_TIMEOUT_S):
                await self._uplink.say("inventory", HostBye(reason="agent stops"))
        except (BrokerError, TimeoutError) as error:
            log.info("bye not delivered", extra={"why": str(error)})

    async def _inventory(self) -> HostInventory:
        statuses = await self._statuses.all()
        inputs = await asyncio.to_thread(self.inputs)
        facts = await asyncio.to_thread(facts_of, self._config, self._hypervisor, statuses, inputs)
        return HostInventory(host=facts, vms=statuses, at_ms=int(time.time() * 1000), gone=self.gone())
