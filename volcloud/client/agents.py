"""Agents asked by themselves, past the centre: whether one answers, and how a host finds a VM at this moment.

The centre's list is as old as a host's last beat; what is asked here is as new as its answer.
"""

from __future__ import annotations

import time

from schemas.envelope import Done, Ping
from schemas.vms import VmList, Vms, VmStatus
from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.shown import shown
from volcloud.client.vms import AsyncVms, check_live
from volcloud.errors import NoSuchVm

#: How long an agent may take to answer at once, unless it is said, seconds.
PING_S = 5.0
#: How long a host may take to look at its VMs, seconds: its hypervisor may be slow to say.
LOOK_S = 9.0


class AsyncAgents:
    """See the module."""

    def __init__(self, session: ClientSession, vms: AsyncVms) -> None:
        self._session, self._vms = session, vms

    async def ping(self, vm: str, *, timeout_s: float = PING_S) -> float:
        """Have the agent in a VM answer at once; give how long that took, seconds. Raises CommandFailed when that VM
        does not run."""
        row = check_live(await self._vms.get(vm))
        began = time.monotonic()
        await self._session.caller.call(row.status.vm, Ping(), Done, timeout_s=timeout_s)
        return time.monotonic() - began

    async def look(self, vm: str) -> VmStatus:
        """Give a VM as its host sees it now."""
        row = await self._vms.get(vm)
        answer = await self._session.caller.call(row.host, VmList(), Vms, timeout_s=LOOK_S)
        for status in answer.vms:
            if status.vm == row.status.vm:
                return shown(status)
        raise NoSuchVm(f"{vm!r} is no VM of host {row.host} any more", "`volcloud vm list` shows those that there are")


class BlockingAgents(Blocking[AsyncAgents]):
    """See the module."""

    ping = blocking(AsyncAgents.ping)
    look = blocking(AsyncAgents.look)
