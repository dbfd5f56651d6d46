"""Snapshots of virtual machines, as ``AsyncVms`` deals in them: disk and memory together, under a name."""

from __future__ import annotations

import re

from schemas.ids import SHORT_NAME_PATTERN
from schemas.vms import (
    VmDeleteSnapshot,
    VmRestoreSnapshot,
    VmSnapshot,
    VmSnapshotList,
    VmSnapshots,
    VmStatus,
    VmTakeSnapshot,
)
from volcloud.client.shown import Table, shown
from volcloud.client.vm_part import AsyncVmPart
from volcloud.errors import BadInput

#: How long a host may take to list them, seconds.
LIST_S = 30.0


class AsyncVmSnapshots(AsyncVmPart):
    """What ``AsyncVms`` has of snapshots."""

    async def snapshots(self, vm: str) -> Table[VmSnapshot]:
        """List a VM's snapshots, the oldest first: each with its name, when it was taken, what the VM was then."""
        row = await self.get(vm)
        order = VmSnapshotList(vm=row.status.vm)
        answer = await self._session.caller.call(row.host, order, VmSnapshots, timeout_s=LIST_S)
        return Table(map(shown, answer.snapshots))

    async def take_snapshot(self, vm: str, name: str) -> VmStatus | None:
        """Keep disk and memory of a VM that runs or is paused; it is as it was after.

        Raises BadInput, and RemoteError where the name is taken, or the VM has as many as it may."""
        return await self.command(await self.get(vm), VmTakeSnapshot, snapshot=name)

    async def restore_snapshot(self, vm: str, name: str) -> VmStatus | None:
        """Bring a VM, in whatever state, back to a snapshot; it is then what it was when that was taken.

        Raises BadInput, and RemoteError where there is none of that name."""
        return await self.command(await self.get(vm), VmRestoreSnapshot, snapshot=name)

    async def delete_snapshot(self, vm: str, name: str) -> VmStatus | None:
        """Remove a snapshot; the VM stays as it is. One that is not there is no error. Raises BadInput."""
        return await self.command(await self.get(vm), VmDeleteSnapshot, snapshot=name)


def check_name(name: str) -> None:
    """Raise BadInput unless it may be a snapshot's name."""
    if not re.fullmatch(SHORT_NAME_PATTERN, name):
        allowed = "must be a to z, 0 to 9 and '-' inside, at most 42 characters"
        raise BadInput(f"snapshot name = {name!r}: {allowed}", "choose another name")
