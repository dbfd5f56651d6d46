"""A host's VMs as a whole: at the beginning what is there is made to agree with what is known; the end of them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from host_agent.aside import SetAside
from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.contract import Hypervisor
from host_agent.missing import Missing
from host_agent.registry import VmRecord, VmRegistry
from schemas.vms import VmState

log = logging.getLogger(__name__)


async def settle(hypervisor: Hypervisor, registry: VmRegistry, aside: SetAside, missing: Missing) -> None:
    """After the driver was opened: set aside the VMs that nobody knows, tell which are missing, and forget those that
    were never made wholly or were being deleted."""
    made = set(await hypervisor.list())
    for record in registry.all():
        if record.vm in made:
            registry.note_made(record.vm, is_made=True)
        elif record.is_made:
            await missing.judge(record, VmState.ABSENT)
        else:
            _forget(record, registry)
    aside.put(sorted(made - {record.vm for record in registry.all()}))


def _forget(record: VmRecord, registry: VmRegistry) -> None:
    log.warning("vm gone, forgotten", extra={"vm": record.vm, "name_of_vm": record.name})
    try:
        registry.remove(record.vm)
    except OSError as error:
        # A full disk keeps no agent from its other VMs; this one is shown as absent, and can be deleted.
        log.error("registry not written", extra={"vm": record.vm, "why": str(error)})


async def poweroff_all(hypervisor: Hypervisor, name: Callable[[str], str]) -> None:
    """End every VM; ``name`` says what people call one. One that cannot be ended keeps no other running. Raises
    HypervisorError that names all such."""
    ended = await asyncio.gather(*(_poweroff(hypervisor, vm, name(vm)) for vm in await hypervisor.list()))
    if failed := [why for why in ended if why]:
        raise HypervisorError("; ".join(failed))


async def _poweroff(hypervisor: Hypervisor, vm: str, name: str) -> str:
    """End one VM and give why that failed; empty if it did not."""
    try:
        with naming_disk(f"poweroff of {name}"):
            await hypervisor.poweroff(vm)
    except HypervisorError as error:
        log.error("vm not powered off", extra={"vm": vm, "why": str(error)})
        return str(error)
    return ""
