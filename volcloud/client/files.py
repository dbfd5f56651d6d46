"""Files to and from VMs, and inputs of jobs to the store.

Each method raises TransferFailed when the other side says no, CommandFailed or Unreachable when it says nothing, and
BadInput for a local file that cannot be used. A local target is whole or as it was. ``progress`` is called with (bytes
so far, size), in the client's thread, and must return at once.
"""

from __future__ import annotations

from pathlib import Path

from volcloud.client.blocking import Blocking, blocking
from volcloud.client.session import ClientSession
from volcloud.client.vms import AsyncVms, check_live
from volcloud.client.watched_transfers import Progress


class AsyncFiles:
    """See the module."""

    def __init__(self, session: ClientSession, vms: AsyncVms) -> None:
        self._session, self._vms = session, vms

    async def push(self, local: Path | str, vm: str, path: str, *, progress: Progress | None = None) -> str:
        """Send a file into a VM, to a path below its agent's file area; give its SHA-256."""
        row = check_live(await self._vms.get(vm))
        return await self._session.transfers.push(Path(local), row.status.vm, path, progress)

    async def pull(self, vm: str, path: str, local: Path | str, *, progress: Progress | None = None) -> int:
        """Take a file out of a VM's file area; give its size."""
        row = check_live(await self._vms.get(vm))
        return (await self._session.transfers.pull(row.status.vm, path, Path(local), progress)).size

    async def upload(self, path: Path | str, *, progress: Progress | None = None) -> str:
        """Put a file in the store as a job's input; give the SHA-256 by which a description names it."""
        return await self._session.transfers.upload(Path(path), progress)


class BlockingFiles(Blocking[AsyncFiles]):
    """See the module."""

    push = blocking(AsyncFiles.push)
    pull = blocking(AsyncFiles.pull)
    upload = blocking(AsyncFiles.upload)
