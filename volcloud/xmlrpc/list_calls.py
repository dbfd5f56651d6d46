"""Calls that list: VMs, their states, their ids; and this door itself."""

from __future__ import annotations

import asyncio
from importlib.metadata import version as version_of
from typing import Annotated

from msgspec import Meta

from broker.errors import BrokerError, CallTimeout, NotDelivered
from schemas.ledger import RegistryRow
from schemas.vms import VmState
from volcloud.errors import CommandFailed
from volcloud.xmlrpc.faults import FaultCode, fault
from volcloud.xmlrpc.method import Generation, Room, method
from volcloud.xmlrpc.names import STATES, is_pattern, live_vm, named, one_vm, word_of

#: VMs that are pinged at once.
MOST_AT_ONCE = 32
#: How long a ping may wait, seconds.
Patience = Annotated[float, Meta(gt=0, le=60)]


async def list_registered_vms(room: Room) -> list[str]:
    """The names of the VMs whose agents are ready."""
    return [name for name, row in named(await room.client.vms.list()).items() if row.agent_ready]


async def list_vms(room: Room) -> list[str]:
    """The names of all VMs."""
    return list(named(await room.client.vms.list()))


async def list_running_vms(room: Room) -> list[str]:
    """The names of the VMs that run."""
    rows = named(await room.client.vms.list())
    return [name for name, row in rows.items() if row.status.state is VmState.RUNNING]


async def list_vms_with_state(room: Room) -> dict[str, str]:
    """The state of each VM, by name, as the centre last heard of it."""
    return {name: word_of(row.status) for name, row in named(await room.client.vms.list()).items()}


async def get_names_to_ids_mapping(room: Room) -> dict[str, str]:
    """The id of each VM, by name. An id is a principal of the broker; the original's was a network address."""
    return {name: row.status.vm for name, row in named(await room.client.vms.list()).items()}


async def get_ids_to_names_mapping(room: Room) -> dict[str, str]:
    """The name of each VM, by id."""
    return {row.status.vm: row.status.name for row in await room.client.vms.list()}


async def get_state(room: Room, vm: str) -> str:
    """The state of a VM, as its host sees it now; Unknown where the host does not answer."""
    await one_vm(room.client, vm)
    try:
        return word_of(await room.client.agents.look(vm))
    except (CallTimeout, NotDelivered):
        return "Unknown"


async def states(room: Room) -> dict[str, int]:
    """The states that a VM may have, numbered."""
    return {word: number for number, word in enumerate(STATES)}


async def version(room: Room) -> str:
    """The version of volcloud; hosts may have different hypervisors."""
    return version_of("volunteer-cloud")


async def ping(room: Room, vm: str, timeout_secs: Patience = 5.0) -> str | list[str]:
    """Have the agent in a VM answer: "PONG from NAME". With a pattern, such as 'atlas-*', a list of those that answer
    in time; a fault where none does."""
    if not is_pattern(vm):
        row = await live_vm(room.client, vm)
        await _pinged(room, row, timeout_secs)
        return f"PONG from {row.status.name}"
    turn, rows = asyncio.Semaphore(MOST_AT_ONCE), await room.client.vms.find(vm)

    async def answers(row: RegistryRow) -> bool:
        async with turn:
            try:
                await _pinged(room, row, timeout_secs)
            except (BrokerError, CommandFailed):
                return False
            return True

    found = await asyncio.gather(*map(answers, rows))
    if not any(found):
        raise fault(FaultCode.TIMEOUT, f"PING timeout (for {vm})", "`volcloud vm list` shows which agents are ready")
    return [f"PONG from {name}" for (name, _), is_there in zip(named(rows).items(), found, strict=True) if is_there]


async def _pinged(room: Room, row: RegistryRow, timeout_s: float) -> None:
    """Raises what the client does; a silence in the original's words. That bound is the caller's: whoever waits less
    than the client would is told no later."""
    try:
        async with asyncio.timeout(timeout_s):
            await room.client.agents.ping(row.status.vm, timeout_s=timeout_s)
    except (CallTimeout, TimeoutError) as error:
        text = f"PING timeout (for {row.status.name}): no answer in {timeout_s:g} s"
        raise CallTimeout(text) from error


METHODS = [
    method("listRegisteredVMs", Generation.FIRST, list_registered_vms),
    method("listAvailableVMs", Generation.FIRST, list_vms),
    method("listVMs", Generation.SECOND, list_vms),
    method("listRunningVMs", Generation.BOTH, list_running_vms),
    method("listVMsWithState", Generation.SECOND, list_vms_with_state),
    method("getNamesToIdsMapping", Generation.BOTH, get_names_to_ids_mapping),
    method("getIdsToNamesMapping", Generation.BOTH, get_ids_to_names_mapping),
    method("getState", Generation.BOTH, get_state),
    method("states", Generation.SECOND, states),
    method("version", Generation.SECOND, version),
    method("ping", Generation.BOTH, ping),
]
