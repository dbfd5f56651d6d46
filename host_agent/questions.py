"""Looking into a VM from outside: what it uses, its screen, what it prints. The VM does not notice, no act waits.

A hypervisor that hangs holds up the question that it is asked, and whoever asks the same VM more than a few at a time;
each is answered in time, if only with that it could not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from broker.rpc import Call, Handler
from host_agent.advice import command
from host_agent.aside import SetAside
from host_agent.errors import LookTimedOut, Unsupported, naming_disk
from host_agent.hypervisors.contract import COUNTERS_S, Capabilities, Hypervisor, VmCounted
from host_agent.hypervisors.kept_boots import ask
from host_agent.registry import VmRegistry
from host_agent.statuses import VmStatuses
from host_agent.vm import Verb
from schemas.codec import clip
from schemas.envelope import Message, Reply
from schemas.looks import (
    SCREEN_PART_BYTES,
    ScreenPart,
    ScreenReply,
    VmCounters,
    VmLog,
    VmLogReply,
    VmScreenshot,
    VmStats,
    VmStatsReply,
)
from schemas.vms import MOST_OF_A_REASON, VmState

#: Questions as people type them, and the port of a driver that answers each.
PORTS = {"stats": "statistics", "screenshot": "screenshots", "log": "serial_log"}
#: How long a look may take, seconds; who asked has asked after it by then, or gives up soon.
LOOK_S = 4.0
#: Looks at one VM at a time; others wait, within the same time.
MOST_AT_ONCE = 4
#: How long the parts of a picture may take to the broker, seconds.
SENDING_S = 30.0


def can_answer(capabilities: Capabilities, question: str) -> bool:
    """Say whether a driver answers a question of ``PORTS`` at all."""
    return getattr(capabilities, PORTS[question]) is not None


class VmQuestions:
    """See the module."""

    def __init__(self, hypervisor: Hypervisor, registry: VmRegistry, aside: SetAside, statuses: VmStatuses) -> None:
        self._hypervisor, self._registry, self._aside = hypervisor, registry, aside
        self._statuses = statuses
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def handlers(self) -> dict[type[Message], Handler]:
        """Give the table for the responder."""
        return {
            VmStats: Handler(run=self._stats),
            VmScreenshot: Handler(run=self._screenshot),
            VmLog: Handler(run=self._log),
        }

    async def _stats(self, call: Call, message: VmStats) -> Reply:
        async with self._look(message.vm):
            state, counted = await asyncio.gather(self._state(message.vm), self._counted(message.vm))
        return VmStatsReply(
            call=message.id,
            vm=message.vm,
            state=state,
            counters=counted.counters,
            reason=clip(counted.reason, MOST_OF_A_REASON),
        )

    async def _counted(self, vm: str) -> VmCounted:
        statistics = self._hypervisor.capabilities.statistics
        if statistics is None:
            return VmCounted(VmCounters(), f"the {self._hypervisor.name} driver counts nothing")
        with naming_disk(f"statistics of {vm}"):
            return await statistics.counters(vm)

    async def _state(self, vm: str) -> VmState:
        """What is counted is told also of a VM whose hypervisor does not say how it is."""
        try:
            async with asyncio.timeout(COUNTERS_S):
                return await self._statuses.state(vm)
        except TimeoutError:
            return VmState.UNKNOWN

    async def _screenshot(self, call: Call, message: VmScreenshot) -> Reply:
        screenshots = self._hypervisor.capabilities.screenshots
        if screenshots is None:
            raise Unsupported(f"screenshot: VMs of the {self._hypervisor.name} driver have no screen")
        async with self._look(message.vm) as limit:
            with naming_disk(f"screenshot of {message.vm}"):
                picture = await screenshots.take(message.vm)
            limit.reschedule(asyncio.get_running_loop().time() + SENDING_S)
            parts = [picture[at : at + SCREEN_PART_BYTES] for at in range(0, len(picture), SCREEN_PART_BYTES)]
            for number, data in enumerate(parts):
                await call.send(ScreenPart(call=message.id, number=number, data=data))
        digest = hashlib.sha256(picture).hexdigest()
        return ScreenReply(call=message.id, parts=len(parts), size=len(picture), sha256=digest)

    async def _log(self, call: Call, message: VmLog) -> Reply:
        log = self._hypervisor.capabilities.serial_log
        if log is None:
            raise Unsupported(f"log: the {self._hypervisor.name} driver keeps nothing of what VMs print")
        async with self._look(message.vm):
            with naming_disk(f"log of {message.vm}"):
                found = await asyncio.to_thread(ask, log.file(message.vm), message.boot, message.at, message.lines)
        return VmLogReply(call=message.id, **found._asdict())

    @contextlib.asynccontextmanager
    async def _look(self, vm: str) -> AsyncIterator[asyncio.Timeout]:
        """Let the block look at a VM when it is its turn, for as long as it may. Raises UnknownVm, LookTimedOut."""
        if not self._aside.has(vm):
            self._registry.get(vm)
        turns = self._turns.setdefault(vm, asyncio.Semaphore(MOST_AT_ONCE))
        try:
            async with asyncio.timeout(LOOK_S) as limit, turns:
                yield limit
        except TimeoutError as error:
            text = f"nothing is told of {vm} in time: its hypervisor may hang"
            raise LookTimedOut(f"{text}; ask again, or {command(Verb.POWEROFF, vm)} ends it") from error
