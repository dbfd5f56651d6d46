"""Keeps VMs as they are wished to be: starts again what aborted, lets go on what had no room on the disk, takes back a
pause or a saved state that was asked for and could not be noted. It leaves alone a VM on which an act is at work.

Each try waits longer than the one before. A VM that aborts, or does not start, too often in a row is left alone, with
a reason that people see; a start that somebody asks for begins anew. What only the host or the broker stands in the
way of is tried for as long as it takes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

from broker.backoff import backoff
from broker.errors import BrokerError
from host_agent.advice import command
from host_agent.errors import HostDiskFull, HostError, HypervisorError
from host_agent.hypervisors.contract import Hypervisor
from host_agent.registry import VmRegistry
from host_agent.vm import Verb, Wish
from schemas.vms import VmState

log = logging.getLogger(__name__)

#: The first start comes at once, the last after some minutes, seconds.
FIRST_WAIT_S, MOST_WAIT_S = 0.2, 300.0
#: Between two looks at a VM whose disk had no room, or that could not be asked.
MOST_OTHER_WAIT_S = 30.0
#: A VM that ran for so long has proved itself: its next end is the first again.
STEADY_S = 600.0
#: Starts in a row that came to nothing; with these waits it takes about a quarter of an hour.
MOST_STARTS = 12


def _waits() -> Iterator[float]:
    return backoff(FIRST_WAIT_S, MOST_WAIT_S)


class Tries:
    """What was tried for one VM, and when the next try is due."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.count = 0
        self.why = ""
        self._waits = _waits()
        self._started_s: float | None = None

    @property
    def is_over(self) -> bool:
        """It has been tried often enough."""
        return self.count >= MOST_STARTS

    def ended(self, how: str) -> None:
        """The VM has ended, or is down. After a long run nothing of what was before counts."""
        if self._started_s is not None and self._clock() - self._started_s >= STEADY_S:
            self.count, self._waits = 0, _waits()
        if self._started_s is not None:
            self.count, self.why, self._started_s = self.count + 1, how, None

    def started(self) -> None:
        """It runs."""
        self._started_s = self._clock()

    def failed(self, why: str, *, counts: bool) -> None:
        """A try came to nothing; one that ``counts`` speaks against the VM."""
        self.count, self.why = self.count + counts, why

    def next_wait_s(self) -> float:
        """Say how long to wait before the next try."""
        return next(self._waits)

    def told(self, vm: str) -> str:
        """Say it to people; empty where there is nothing to say."""
        if self.is_over:
            advice = f"{command(Verb.START, vm)} tries again"
            return f"{self.count} starts in a row came to nothing, the last: {self.why}; {advice}"
        return f"is started again: {self.why}" if self.why and self._started_s is None else ""


class Keeper:
    """See the module. ``act`` carries out a verb on a VM and raises HostError, BrokerError; ``is_at_work`` says whether
    one is being carried out, after which ``look_after`` is called."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        registry: VmRegistry,
        act: Callable[[Verb, str], Awaitable[object]],
        is_at_work: Callable[[str], bool],
    ) -> None:
        self._hypervisor, self._registry, self._act, self._is_at_work = hypervisor, registry, act, is_at_work
        self._tries: dict[str, Tries] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._woken: dict[str, asyncio.Event] = {}
        #: VMs that changed while they were being looked after.
        self._changed: set[str] = set()
        #: VMs to be started from whatever state of rest they are in, and not only when they aborted.
        self._due: set[str] = set()

    def keep_all(self) -> None:
        """Look after every VM, at the agent's start."""
        for record in self._registry.all():
            self.keep(record.vm)

    def keep(self, vm: str) -> None:
        """Look after a VM, and start it from whatever state of rest it is in, if it is to be kept and wished to run."""
        self._due.add(vm)
        self.look_after(vm)

    def look_after(self, vm: str) -> None:
        """A VM has changed, or may have: bring it to what it is wished to be. Returns at once."""
        if vm in self._tasks:
            self._changed.add(vm)
        else:
            self._tasks[vm] = asyncio.ensure_future(self._keep(vm))

    def forgive(self, vm: str) -> None:
        """Somebody decides about the VM: what was tried before does not count any more."""
        self._tries.pop(vm, None)
        if vm in self._woken:
            self._woken[vm].set()

    def reason(self, vm: str, state: VmState) -> str:
        """Say why a VM is not what it is wished to be; empty where there is nothing to say."""
        tries = self._tries.get(vm)
        return tries.told(vm) if tries is not None and state in (VmState.ABORTED, VmState.POWEREDOFF) else ""

    @property
    def at_work(self) -> list[str]:
        """The VMs that are being looked after just now."""
        return list(self._tasks)

    async def close(self) -> None:
        """Stop looking after VMs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, vm: str) -> None:
        """Look after a VM until nothing is left to do; what changes meanwhile is looked at once more."""
        try:
            while True:
                self._changed.discard(vm)
                await self._tend(vm)
                if vm not in self._changed:
                    return
        except Exception:
            # The top of a task that nobody awaits: what nobody foresaw is not to end without a word.
            log.exception("vm not looked after until it changes again", extra={"vm": vm})
        finally:
            del self._tasks[vm]

    async def _tend(self, vm: str) -> None:
        waits = backoff(1.0, MOST_OTHER_WAIT_S)
        while True:
            try:
                verb = await self._needs(vm)
                if verb is None or (verb is Verb.START and self._is_over(vm)):
                    return
                await self._pause(vm, self._tries_of(vm).next_wait_s() if verb is Verb.START else next(waits))
                if await self._needs(vm) is verb:
                    await self._try(vm, verb)
            except (HostError, OSError) as error:
                log.warning("vm cannot be asked", extra={"vm": vm, "why": str(error)})
                await self._pause(vm, next(waits))

    def _is_over(self, vm: str) -> bool:
        """Take the end of a VM into account, and say whether it is given up."""
        tries = self._tries_of(vm)
        was_over = tries.is_over
        tries.ended("it aborted")
        if tries.is_over and not was_over:
            log.error("vm given up", extra={"vm": vm, "starts": tries.count, "why": tries.why})
        return tries.is_over

    async def _try(self, vm: str, verb: Verb) -> None:
        try:
            await self._act(verb, vm)
        except (HostError, BrokerError, OSError) as error:
            is_its_own = isinstance(error, HypervisorError) and not isinstance(error, HostDiskFull)
            self._tries_of(vm).failed(str(error), counts=is_its_own and verb is Verb.START)
            log.warning("vm not kept, again soon", extra={"vm": vm, "verb": str(verb), "why": str(error)})
        else:
            self._tries_of(vm).started()
            self._due.discard(vm)

    async def _needs(self, vm: str) -> Verb | None:
        """Say which verb brings a VM to what it is wished to be; None if none does, or need be."""
        record = self._registry.find(vm)
        if record is None or record.wish is not Wish.RUNNING:
            self._due.discard(vm)  # somebody has decided otherwise
            return None
        state = await self._hypervisor.state(vm)
        if self._is_at_work(vm):
            return None  # the wish of an act that has just succeeded may not be noted yet
        if state is VmState.STUCK:
            return Verb.RESUME if (await self._hypervisor.facts(vm)).may_go_on else None
        if state is VmState.PAUSED:
            return Verb.RESUME
        if state is VmState.RUNNING:
            self._due.discard(vm)
        is_down = state in (VmState.ABORTED, VmState.SAVED) or (state is VmState.POWEREDOFF and vm in self._due)
        return Verb.START if record.autostart and is_down else None

    async def _pause(self, vm: str, seconds: float) -> None:
        """Wait, but not once somebody has decided about the VM."""
        woken = self._woken[vm] = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
        except TimeoutError:
            return
        finally:
            del self._woken[vm]

    def _tries_of(self, vm: str) -> Tries:
        return self._tries.setdefault(vm, Tries())
