"""VMs that the registry knows and of which the hypervisor has nothing: kept and shown, until they are back or deleted.

Absence is no deletion: a disk may not be mounted yet. Such a VM keeps its name, its generation and its principal. What
was never made wholly, or whose deletion had begun, is not missing; it is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from host_agent.advice import command
from host_agent.hypervisors.contract import Hypervisor
from host_agent.registry import VmRecord
from host_agent.vm import Verb
from schemas.vms import VmState

log = logging.getLogger(__name__)


class Missing:
    """See the module. ``on_back`` is told the id of a VM that was missing and is there again."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._vms: set[str] = set()
        self._attaching = asyncio.Lock()
        self.on_back: Callable[[str], None] = lambda vm: None

    async def judge(self, record: VmRecord, state: VmState) -> VmState:
        """Give the state of a VM that is known, from what its hypervisor says of it. Raises HypervisorError."""
        if state is VmState.ABSENT:
            return self._of_absent(record)
        async with self._attaching:
            if record.vm not in self._vms:
                return state
            # Before anything else is done with it: a process of it may have outlived an agent.
            await self._hypervisor.attach(record.vm)
            self._vms.discard(record.vm)
        state = await self._hypervisor.state(record.vm)
        log.warning("vm is back", extra={"vm": record.vm, "name_of_vm": record.name, "state": str(state)})
        self.on_back(record.vm)
        return state

    def reason(self, vm: str) -> str:
        """Say what is not there, and what to do about it."""
        back = "mount its disk, or bring it back, and the VM is there again"
        return f"{self._hypervisor.where(vm)} is not there: {back}; {command(Verb.DELETE, vm)} gives it up"

    def _of_absent(self, record: VmRecord) -> VmState:
        if not record.is_made:
            self._vms.discard(record.vm)
            return VmState.ABSENT
        if record.vm not in self._vms:
            self._vms.add(record.vm)
            log.error("vm missing", extra={"vm": record.vm, "name_of_vm": record.name, "why": self.reason(record.vm)})
        return VmState.MISSING
