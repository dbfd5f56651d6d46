"""Checkpoints of a task's virtual machine: snapshots of disk and memory together, of which two are kept. The older one
is there until the newer has been written wholly."""

from __future__ import annotations

import contextlib
import re

from host_agent.errors import HostDiskFull, HostError
from host_agent.own_centre.lone_host import LoneHost
from host_agent.verbs import More
from host_agent.vm import Verb
from schemas.vms import VmSnapshot

#: Checkpoints that are kept.
KEPT = 2
_NAME = re.compile(r"checkpoint-([0-9]{1,9})")


class GuestCheckpoints:
    """Those of one machine."""

    def __init__(self, host: LoneHost, vm: str) -> None:
        self._host, self._vm = host, vm

    async def kept(self) -> list[VmSnapshot]:
        """List them, the oldest first. Raises HostError."""
        if self._host.hypervisor.capabilities.snapshots is None:
            return []
        found = await self._host.control.snapshots(self._vm)
        return sorted((one for one in found if _NAME.fullmatch(one.name)), key=lambda one: _number(one.name))

    async def last(self) -> str:
        """Name the newest one; empty where there is none. Raises HostError."""
        kept = await self.kept()
        return kept[-1].name if kept else ""

    async def write(self) -> str:
        """Keep all of the machine as it is now, and let go of what is older than the one before; give its name. Where
        there is no room for a third one the oldest gives way. Raises HostError: those that there are stand."""
        kept = await self.kept()
        name = f"checkpoint-{_number(kept[-1].name) + 1 if kept else 1}"
        try:
            await self._host.control.act(Verb.TAKE_SNAPSHOT, self._vm, More(snapshot=name))
        except HostDiskFull:
            if len(kept) < KEPT:
                raise
            await self.drop(kept[0])
            await self._host.control.act(Verb.TAKE_SNAPSHOT, self._vm, More(snapshot=name))
        for old in (await self.kept())[:-KEPT]:
            await self.drop(old)
        return name

    async def drop(self, snapshot: VmSnapshot) -> None:
        """Let go of one."""
        with contextlib.suppress(HostError):  # the next one sees to it
            await self._host.control.act(Verb.DELETE_SNAPSHOT, self._vm, More(snapshot=snapshot.name))


def _number(name: str) -> int:
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else 0
