"""What a job may use of memory and disk: promised when it begins, kept by the kernel where it can, else watched over.

Where there are no control groups, or no quota, what the payload uses is looked at now and then, and one that uses more
is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator

from guest_agent.container import Container
from guest_agent.directory import Directory
from guest_agent.disk import FULL_BYTES
from guest_agent.errors import NotContained
from guest_agent.payload import Payload
from guest_agent.quota import DiskAmount
from guest_agent.resources import Resources
from schemas.jobs import JobAssign

log = logging.getLogger(__name__)

#: Between two looks at what a payload uses, where the kernel does not bound it, seconds.
LOOK_S = 0.5
#: A promise of disk that is short of what was asked for by less than this part of it is as good as kept.
SHORT_PART = 8
#: A promise below this is none, bytes.
LEAST_BYTES = 1 << 20


class JobLimits:
    """Those of one job, of its payload and of its validation."""

    def __init__(self, assign: JobAssign, container: Container, resources: Resources) -> None:
        self._assign, self._container, self._resources = assign, container, resources
        self._disk = DiskAmount()
        #: What it was killed for, in words; empty while it keeps to its limits.
        self.overrun = ""
        #: The most that it was seen to have in memory, where no kernel counts.
        self.peak_bytes = 0

    @property
    def memory_bytes(self) -> int:
        """What the job may have in memory; 0 = what there is."""
        return self._assign.memory_mib << 20 or self._resources.memory_bytes

    @property
    def disk_bytes(self) -> int:
        """What the job may have on the disk."""
        return self._disk.bytes

    async def begin(self) -> None:
        """Have the job promised what it may have on the disk. Raises OSError."""
        await asyncio.to_thread(self._begin) if self._resources.disk.counts_by_account else self._begin()

    def end(self) -> None:
        """Nothing of it runs any more: what it was promised and has not used is there for others. Idempotent."""
        self._resources.disk.end(self._container.slot_directory.path)

    def lack_of_disk(self) -> str:
        """Say that the VM had much less of its disk than the job was to have; empty where it had not."""
        wanted, had = self._assign.disk_mib << 20, self._disk.bytes
        if wanted - had > wanted // SHORT_PART:
            return f"disk: the VM had {had >> 20} MiB for this job, which was to have {wanted >> 20} MiB"
        return "disk: the VM had nothing left for this job" if had < LEAST_BYTES else ""

    def is_disk_full(self) -> bool:
        """Say whether the job has used up what it may have on the disk, as far as the kernel counts."""
        left = self._resources.disk.left(self._container.slot_directory.account)
        return left is not None and left.bytes < FULL_BYTES

    def used_up_of_disk(self) -> str:
        """Say what of the disk a job has used up, in words; empty where nobody counts."""
        left = self._resources.disk.left(self._container.slot_directory.account)
        if left is not None and left.bytes < FULL_BYTES:
            return f"its disk was full: it may use {self._disk.bytes >> 20} MiB"
        if left is not None and left.files < 1:
            return f"it had as many files and directories as it may have: {self._disk.files}"
        return ""

    @contextlib.contextmanager
    def watched(self, payload: Payload, held: Directory) -> Iterator[None]:
        """Keep what the kernel does not keep, for as long as the payload runs; one that is short is not looked at."""
        watches: list[asyncio.Future[None]] = []
        first = asyncio.get_running_loop().call_later(
            LOOK_S, lambda: watches.append(asyncio.ensure_future(self._watch(payload, held)))
        )
        try:
            yield
        finally:
            first.cancel()
            for watch in watches:
                watch.cancel()

    async def _watch(self, payload: Payload, held: Directory) -> None:
        try:
            await self._container.assure()
            while not self.overrun:
                self.overrun = await self._memory_overrun() or await self._disk_overrun(held)
                await asyncio.sleep(0 if self.overrun else LOOK_S)
        except (NotContained, OSError) as error:
            log.warning("payload not watched", extra={"job": self._assign.job, "why": str(error)})
            return
        payload.signal(signal.SIGKILL)

    async def _memory_overrun(self) -> str:
        if self._container.bounds_memory:
            return ""
        resident = await self._container.resident_bytes()
        self.peak_bytes = max(self.peak_bytes, resident)
        limit = self.memory_bytes
        if not limit or resident <= limit:
            return ""
        return f"memory: it had {resident >> 20} MiB in memory, its limit was {limit >> 20} MiB"

    async def _disk_overrun(self, held: Directory) -> str:
        if self._resources.disk.counts_by_account or not self._assign.disk_mib:
            return ""
        used = await asyncio.to_thread(self._container.slot_directory.used, held)
        self._resources.disk.note_used(self._container.slot_directory.path, used)
        if used.bytes > self._disk.bytes:
            return f"disk: it had {used.bytes >> 20} MiB on the disk, its limit was {self._disk.bytes >> 20} MiB"
        if used.files > self._disk.files:
            return f"disk: it had {used.files} files and directories, its limit was {self._disk.files}"
        return ""

    def _begin(self) -> None:
        slot_directory = self._container.slot_directory
        self._disk = self._resources.disk.begin(
            slot_directory.path, slot_directory.account, self._assign.disk_mib << 20
        )
