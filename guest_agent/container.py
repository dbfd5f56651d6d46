"""A job's container: its slot's warden at work, the control group that bounds it, and what both know of what was used.

What there is depends on the machine: control groups and namespaces in our image; namespaces where the agent is root
elsewhere; a process group under a warden where it is not. ``kind`` says which. However little there is, a payload's
end is the end of all that it started, or it is told as NotContained.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from broker import durable
from broker.process_record import own_mark
from guest_agent import predecessor, warden
from guest_agent.cgroup import Figures, SlotGroup
from guest_agent.errors import CannotRun, NotContained
from guest_agent.process_group import End
from guest_agent.quarters import Quarters

log = logging.getLogger(__name__)

#: How long a warden may take to start or to answer, seconds: under emulation, on a machine that is full.
ANSWER_S = 60.0
#: An order up to this length goes in the message itself, a longer one in a file in memory, bytes.
INLINE_BYTES = 32 << 10
#: Namespaces that a root agent's wardens leave, in this order.
APART = ("mounts", "ipc", "pids")
#: Processes that one account may have where no control group counts them.
MOST_PROCESSES = 4096
_READ_BYTES = 65536


class Order(Struct, frozen=True, kw_only=True):
    """What to start, where, and what it may use."""

    program: str
    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    #: 0 = what there is.
    memory_bytes: int = 0
    cpus: int = 0


class Running:
    """A payload that a warden was told to start. See ``Leader``; its ``ended`` raises CannotRun, NotContained."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def signal(self, number: int) -> None:
        """Signal the payload's group; SIGKILL ends all that it has started."""
        if not self.ended.done():
            self._container.send({"do": "signal", "number": number})


class Container:
    """One slot's. Opened when it is first needed; its methods belong to one event loop."""

    def __init__(self, quarters: Quarters, *, group: SlotGroup | None = None, cover: Path | None = None) -> None:
        self.quarters = quarters
        self._group = group
        self._cover = cover
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._running: Running | None = None
        self._parts: list[str] = []

    @property
    def kind(self) -> str:
        """Say in words what holds payloads together here, once it is open."""
        return ", ".join(self.parts)

    @property
    def parts(self) -> list[str]:
        """Name what holds payloads together; what a warden could not have is missing once it is open."""
        parts = ["cgroup"] if self._group is not None else []
        parts += self._parts
        parts += ["account"] if self.quarters.account is not None else []
        return parts or ["group"]

    @property
    def temporary(self) -> str:
        """Where a payload's temporary files go."""
        return "/tmp" if "mounts" in self._parts else str(self.quarters.directory / "tmp")

    @property
    def is_open(self) -> bool:
        """A warden has answered."""
        return self._socket is not None and bool(self._parts)

    async def open(self) -> None:
        """Have a warden that answers, and nothing of one before it. Raises NotContained, OSError."""
        if self._socket is None:
            await predecessor.end(self.quarters.work)
            self._start_warden()
            self._parts = (await self._answer(self._expect()))["hello"]

    def _start_warden(self) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [*warden.COMMAND, str(its.fileno()), json.dumps(self._setting())],
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(),),
                start_new_session=True,
                env={"LANG": "C.UTF-8"} | own_mark(),
            )
        mine.setblocking(False)
        self._socket = mine
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(mine, self._on_message)

    async def start(self, order: Order, stdout: int, stderr: int) -> Running:
        """Have a payload started, whose output goes to two descriptors. Raises NotContained, and nothing runs.

        The warden says nothing before its end: that it could not be started is an end too, CannotRun. Of one that runs
        for long ``assure`` yourself.
        """
        await self.open()
        if self._group is not None:
            self._group.begin(memory_bytes=order.memory_bytes, cpus=order.cpus)
        running = Running(self)
        self._send_order(msgspec.json.encode(self._order(order)), stdout, stderr)
        self._running = running
        return running

    async def assure(self) -> None:
        """See whether the warden is there. One that does not answer is given up, and its payload; NotContained then."""
        await self._answer(self._ask({"do": "measure"}))

    @property
    def bounds_memory(self) -> bool:
        """The kernel keeps a job's limit of memory."""
        return self._group is not None

    async def resident_bytes(self) -> int:
        """Measure what the payload and all that it started have in memory now. Raises NotContained."""
        if self._group is not None:
            return self._group.resident_bytes()
        return int((await self._answer(self._ask({"do": "measure"})))["resident_bytes"])

    def send(self, request: dict[str, Any]) -> None:
        """Say something to the warden; nothing happens when it is gone."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(msgspec.json.encode(request))

    def close(self) -> None:
        """Let the warden go, which ends whatever runs and then itself. Idempotent."""
        self._let_go(NotContained("the warden of the slot was ended"))

    def _let_go(self, error: NotContained) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            self._fail(error)

    def _setting(self) -> dict[str, Any]:
        is_root = os.geteuid() == 0 and self.quarters.account is not None
        return {
            "apart": APART if is_root else (),
            "keep": str(self.quarters.work),
            "scratch": self.quarters.scratch(),
            "cover": [str(self._cover)] if self._cover is not None else [],
            "group": str(self._group.warden) if self._group is not None else "",
            "limits": self._limits(),
        }

    def _limits(self) -> dict[str, int]:
        """What no payload needs: message queues outlast their processes, and core files are what fills a disk."""
        limits = {"RLIMIT_CORE": 0, "RLIMIT_MSGQUEUE": 0}
        if self.quarters.account is not None and self._group is None:
            limits["RLIMIT_NPROC"] = MOST_PROCESSES
        return limits

    def _order(self, order: Order) -> dict[str, Any]:
        account = self.quarters.account
        return {
            "do": "start",
            "program": order.program,
            "command": order.command,
            "directory": str(order.directory),
            "environment": {**order.environment, **own_mark()},
            "account": (account.uid, account.gid) if account is not None else None,
            "cgroup": str(self._group.job) if self._group is not None else "",
        }

    def _send_order(self, order: bytes, stdout: int, stderr: int) -> None:
        if self._socket is None:
            raise NotContained("the warden of the slot was ended")
        try:
            if len(order) <= INLINE_BYTES:
                socket.send_fds(self._socket, [order], (stdout, stderr))
                return
            with os.fdopen(os.memfd_create("order"), "wb", buffering=0) as file:
                durable.write_all(file.fileno(), order)
                socket.send_fds(self._socket, [b'{"do": "read"}'], (stdout, stderr, file.fileno()))
        except OSError as error:
            self.close()
            raise NotContained(f"the warden of the slot cannot be told anything: {error.strerror}") from error

    def _ask(self, request: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        expected = self._expect()
        self.send(request)
        return expected

    def _expect(self) -> asyncio.Future[dict[str, Any]]:
        expected: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked.append(expected)
        return expected

    async def _answer(self, expected: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await expected
        except TimeoutError as error:
            silent = NotContained(f"the warden of the slot did not answer for {ANSWER_S:.0f} s")
            self._let_go(silent)
            raise silent from error

    def _on_message(self) -> None:
        if self._socket is None:
            return
        message = self._socket.recv(_READ_BYTES)
        if not message:
            log.error("warden gone", extra={"slot": str(self.quarters.directory)})
            self.close()
            return
        said = msgspec.json.decode(message)
        if "status" in said or "failed" in said:
            self._on_end(said)
        elif self._asked:
            expected = self._asked.popleft()
            if not expected.done():  # whoever asked may have been cancelled
                expected.set_result(said)

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

    def _fail(self, error: NotContained) -> None:
        """Tell everybody who waits for a warden that is gone."""
        running, self._running = self._running, None
        waiting: list[asyncio.Future[Any]] = [*self._asked, *([running.ended] if running is not None else [])]
        self._asked.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more
