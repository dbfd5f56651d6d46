"""Acts on VMs in turn: one at a time a VM, in the order in which they were asked for, and who may cut whom short.

A VM that hangs holds up its own acts and nobody else's. ``poweroff`` never waits for its turn: it cuts short what is at
work on the VM and what waits there, whose askers hear which verb did it. What an act does is not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from host_agent.errors import Interrupted
from host_agent.verbs import TRANSITIONS
from host_agent.vm import Verb
from schemas.vms import VmActed

T = TypeVar("T")

#: VMs of which it is remembered what was done to them last.
MOST_REMEMBERED = 1000
#: An act that takes longer is told while it is at work, seconds.
LONG_S = 1.0


class Act:
    """One verb at work on a VM, or waiting for its turn."""

    def __init__(self, verb: Verb, by: str) -> None:
        self.verb, self.by = verb, by
        self.began_s = time.monotonic()
        self.task: asyncio.Task[object] | None = None
        #: The verb that cut this one short.
        self.interrupted_by: Verb | None = None

    def interrupt(self, verb: Verb) -> None:
        """Cut it short, if it is of a kind that may be."""
        if TRANSITIONS[self.verb].interruptible and self.task is not None and self.interrupted_by is None:
            self.interrupted_by = verb
            self.task.cancel()


class Operations:
    """See the module. Lives on one event loop."""

    def __init__(self) -> None:
        self._acts: defaultdict[str, list[Act]] = defaultdict(list)
        self._turns: dict[str, asyncio.Lock] = {}
        self._last: dict[str, VmActed] = {}
        #: Called with a VM on which an act is at work for longer than most: people want to know.
        self.on_long: Callable[[str], None] = lambda vm: None

    def at_work(self, vm: str) -> list[Act]:
        """List the acts that are at work on a VM or wait there, the one at work first."""
        return list(self._acts.get(vm, ()))

    def last(self) -> dict[str, VmActed]:
        """Give what was done last to each VM, also to those that are gone; the latest is the last of it."""
        return self._last

    def note(self, vm: str, verb: Verb, by: str) -> None:
        """Remember what was done to a VM."""
        self._last.pop(vm, None)
        self._last[vm] = VmActed(verb=str(verb), by=by, at_ms=time.time_ns() // 1_000_000)
        while len(self._last) > MOST_REMEMBERED:
            del self._last[next(iter(self._last))]

    async def run(self, vm: str, verb: Verb, work: Callable[[], Awaitable[T]], *, by: str = "") -> T:
        """Do ``work`` when it is its turn, for somebody or, with ``by`` empty, by ourselves. Raises what it raises, and
        Interrupted when another verb cut it short."""
        if TRANSITIONS[verb].interrupts:
            for other in self._acts.get(vm, ()):
                other.interrupt(verb)
        act = Act(verb, by)
        long = asyncio.get_running_loop().call_later(LONG_S, self.on_long, vm)
        act.task = task = asyncio.ensure_future(self._in_turn(vm, work))
        self._acts[vm].append(act)
        try:
            return await task
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if act.interrupted_by is None or (me is not None and me.cancelling()):
                raise
            raise Interrupted(f"{verb} was cut short by {act.interrupted_by}") from None
        finally:
            long.cancel()
            self._forget(vm, act)

    async def _in_turn(self, vm: str, work: Callable[[], Awaitable[T]]) -> T:
        async with self._turns.setdefault(vm, asyncio.Lock()):
            return await work()

    def _forget(self, vm: str, act: Act) -> None:
        self._acts[vm].remove(act)
        if act.verb is not Verb.CREATE:  # that is known by its name, and noted by who made it
            self.note(vm, act.verb, act.by)
        if not self._acts[vm]:
            del self._acts[vm], self._turns[vm]
