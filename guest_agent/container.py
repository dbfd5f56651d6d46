"""A job's container: its slot's starter at work, the control group that bounds it, and what both know of what was used.

What there is depends on the machine: control groups and namespaces in our image; namespaces where the agent is root
elsewhere; a process group under a starter where it is not. ``kind`` says which. However little there is, a payload's
end is the end of all that it started, or it is told as NotContained.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from broker.vm_mark import own_mark
from guest_agent import predecessor
from guest_agent.cgroup import Figures, SlotGroup
from guest_agent.errors import CannotRun, NotContained
from guest_agent.process_group import End
from guest_agent.slot_directory import SlotDirectory
from guest_agent.starter_client import StarterClient

#: Namespaces that a root agent's starters leave, in this order.
APART = ("mounts", "ipc", "pids")
#: Processes that one account may have where no control group counts them.
MOST_PROCESSES = 4096


class StartOrder(Struct, frozen=True, kw_only=True):
    """What to start, where, and what it may use."""

    program: str
    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    #: 0 = what there is.
    memory_bytes: int = 0
    cpus: int = 0


class Running:
    """A payload that a starter was told to start. See ``Leader``; its ``ended`` raises CannotRun, NotContained."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def signal(self, number: int) -> None:
        """Signal the payload's group; SIGKILL ends all that it has started."""
        if not self.ended.done():
            self._container.signal(number)


class Container:
    """One slot's. Opened when it is first needed; its methods belong to one event loop."""

    def __init__(
        self, slot_directory: SlotDirectory, *, group: SlotGroup | None = None, cover: Path | None = None
    ) -> None:
        self.slot_directory = slot_directory
        self._group = group
        self._cover = cover
        self._starter = StarterClient(str(slot_directory.path), self._on_end, self._on_gone)
        self._running: Running | None = None
        self._parts: list[str] = []

    @property
    def kind(self) -> str:
        """Say in words what holds payloads together here, once it is open."""
        return ", ".join(self.parts)

    @property
    def parts(self) -> list[str]:
        """Name what holds payloads together; what a starter could not have is missing once it is open."""
        parts = ["cgroup"] if self._group is not None else []
        parts += self._parts
        parts += ["account"] if self.slot_directory.account is not None else []
        return parts or ["group"]

    @property
    def temporary(self) -> str:
        """Where a payload's temporary files go."""
        return "/tmp" if "mounts" in self._parts else str(self.slot_directory.path / "tmp")

    @property
    def is_open(self) -> bool:
        """A starter has answered."""
        return self._starter.is_up and bool(self._parts)

    @property
    def bounds_memory(self) -> bool:
        """The kernel keeps a job's limit of memory."""
        return self._group is not None

    async def open(self) -> None:
        """Have a starter that answers, and nothing of one before it. Raises NotContained, OSError."""
        if not self._starter.is_up:
            await predecessor.end(self.slot_directory.work)
            self._parts = await self._starter.start(self._setting())

    async def start(self, order: StartOrder, stdout: int, stderr: int) -> Running:
        """Have a payload started, whose output goes to two descriptors. Raises NotContained, and nothing runs.

        The starter says nothing before its end: that it could not be started is an end too, CannotRun. Of one that runs
        for long ``assure`` yourself.
        """
        await self.open()
        if self._group is not None:
            self._group.begin(memory_bytes=order.memory_bytes, cpus=order.cpus)
        running = Running(self)
        self._starter.order(msgspec.json.encode(self._order(order)), stdout, stderr)
        self._running = running
        return running

    async def assure(self) -> None:
        """See whether the starter is there. One that does not answer is given up with its payload: NotContained."""
        await self._starter.measure()

    async def resident_bytes(self) -> int:
        """Measure what the payload and all that it started have in memory now. Raises NotContained."""
        if self._group is not None:
            return self._group.resident_bytes()
        return await self._starter.measure()

    def signal(self, number: int) -> None:
        """Signal the payload that runs; nothing happens when the starter is gone."""
        self._starter.signal(number)

    def close(self) -> None:
        """Let the starter go, which ends whatever runs and then itself. Idempotent."""
        self._starter.close()

    def _setting(self) -> dict[str, Any]:
        is_root = os.geteuid() == 0 and self.slot_directory.account is not None
        return {
            "apart": APART if is_root else (),
            "keep": str(self.slot_directory.work),
            "scratch": self.slot_directory.scratch(),
            "cover": [str(self._cover)] if self._cover is not None else [],
            "group": str(self._group.starter) if self._group is not None else "",
            "limits": self._limits(),
        }

    def _limits(self) -> dict[str, int]:
        """What no payload needs: message queues outlast their processes, and core files are what fills a disk."""
        limits = {"RLIMIT_CORE": 0, "RLIMIT_MSGQUEUE": 0}
        if self.slot_directory.account is not None and self._group is None:
            limits["RLIMIT_NPROC"] = MOST_PROCESSES
        return limits

    def _order(self, order: StartOrder) -> dict[str, Any]:
        account = self.slot_directory.account
        return {
            "do": "start",
            "program": order.program,
            "command": order.command,
            "directory": str(order.directory),
            "environment": {**order.environment, **own_mark()},
            "account": (account.uid, account.gid) if account is not None else None,
            "cgroup": str(self._group.job) if self._group is not None else "",
        }

    def _on_end(self, said: dict[str, Any]) -> None:
        running, self._running = self._running, None
        if running is None or running.ended.done():
            return
        if "failed" in said:
            running.ended.set_exception(CannotRun(os.strerror(said["failed"]), said["failed"]))
            return
        if said["left"]:
            running.ended.set_exception(NotContained("processes of the job do not end, though they were killed"))
            self.close()
            return
        figures = Figures(cpu_seconds=said["cpu_seconds"], peak_bytes=said["peak_bytes"])
        if self._group is not None:
            figures = self._group.figures()
        running.ended.set_result(End(code=os.waitstatus_to_exitcode(said["status"]), figures=figures))

    def _on_gone(self, error: NotContained) -> None:
        """The starter is gone, and with it what ran."""
        running, self._running = self._running, None
        if running is not None and not running.ended.done():
            running.ended.set_exception(error)
            running.ended.exception()  # nobody may be waiting any more
