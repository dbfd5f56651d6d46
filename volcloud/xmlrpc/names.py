"""Names and states of VMs in the original's words."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from schemas.ledger import RegistryRow
from schemas.vms import VmState, VmStatus
from volcloud.client import AsyncClient
from volcloud.client.vms import check_live
from volcloud.errors import CommandFailed
from volcloud.xmlrpc.faults import FaultCode, fault

#: The original's states, in its order.
STATES = (
    "Unknown",
    "PoweredOff",
    "Saved",
    "Aborted",
    "Running",
    "Paused",
    "Stuck",
    "Starting",
    "Stopping",
    "Saving",
    "Restoring",
    "Discarding",
)
#: Ours whose word is not the same; those of the registry's alone were Unknown to a hypervisor.
_WORDS = {
    VmState.POWEREDOFF: "PoweredOff",
    VmState.PAUSING: "Running",
    VmState.ABSENT: "Unknown",
    VmState.SET_ASIDE: "Unknown",
    VmState.MISSING: "Unknown",
    VmState.LOST: "Unknown",
}
_PATTERN = frozenset("*?[")
#: How long the centre may take to hear of what a host has answered, and how often it is asked, seconds.
SETTLE_S, ASK_S = 3.0, 0.05


def word_of(status: VmStatus) -> str:
    """Give the original's word for the state of a VM."""
    if status.act is not None and status.act.verb == "discard":
        return "Discarding"
    return _WORDS.get(status.state, str(status.state).title())


def is_pattern(name: str) -> bool:
    """Say whether a name may fit several VMs."""
    return not _PATTERN.isdisjoint(name)


async def one_vm(client: AsyncClient, name: str) -> RegistryRow:
    """Give the one VM of a name or id. Raises Fault for a pattern, and NoSuchVm."""
    if is_pattern(name):
        text = f"vm = {name!r}: this call takes one VM, not a pattern"
        raise fault(FaultCode.BAD_ARGUMENT, text, "give a name or an id; listAvailableVMs() has them")
    return await client.vms.get(name)


async def live_vm(client: AsyncClient, name: str) -> RegistryRow:
    """As ``one_vm``, one whose agent can answer. Raises Fault for another, with the verb that makes it live."""
    row = await one_vm(client, name)
    try:
        return check_live(row)
    except CommandFailed as error:
        raise fault(FaultCode.WRONG_STATE, error.message, error.next_step) from error


async def settled(client: AsyncClient, vm: str, status: VmStatus | None) -> None:
    """Wait until the centre has heard of a VM what its host has answered, None for one that is gone: the next call is
    to find it so. Where something else happens to the VM meanwhile, that is left alone after a while."""
    wanted = status.state if status is not None else None
    try:
        async with asyncio.timeout(SETTLE_S):
            while True:
                rows = await client.vms.list(vm)
                if wanted is (rows[0].status.state if rows else None):
                    return
                await asyncio.sleep(ASK_S)
    except TimeoutError:
        return


def named(rows: Sequence[RegistryRow]) -> dict[str, RegistryRow]:
    """Give VMs by the name that calls know them by: where several have one name, each by its id."""
    names = Counter(row.status.name for row in rows)
    return {(row.status.name if names[row.status.name] == 1 else row.status.vm): row for row in rows}
