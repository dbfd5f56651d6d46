"""Verbs on VMs: legal or refused, repeated ones succeed, one at a time a VM, the state told after each.

Here lives what is the same for every hypervisor; the drivers do the acts. A verb that boots or restores raises the
generation first and hands in a fresh one-time login.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from host_agent.aside import SetAside
from host_agent.config import Limits
from host_agent.errors import HypervisorError, IllegalVerb, naming_disk
from host_agent.hypervisors.contract import Hypervisor
from host_agent.making import VmMaking
from host_agent.operations import Operations
from host_agent.registry import VmRegistry
from host_agent.room import HostRoom
from host_agent.seeding import Seeding
from host_agent.settling import poweroff_all, settle
from host_agent.statuses import VmStatuses
from host_agent.verbs import (
    AT_REST,
    TRANSITIONS,
    DriverOrder,
    More,
    Transition,
    can,
    cannot,
    is_done,
    is_legal,
    snapshots_of,
)
from host_agent.vm import Verb, Wish
from schemas.vms import MOST_GONE, VmAct, VmCreate, VmGone, VmSnapshot, VmState, VmStatus

log = logging.getLogger(__name__)

#: What a command holds that holds nothing but the VM's name.
NOTHING_MORE = More()
#: A hypervisor that has not said in what state a VM is when it is to be powered off is not waited for, seconds.
POWEROFF_PATIENCE_S = 2.0
NO_LIMITS = Limits()


class VmControl:
    """See the module. ``on_change`` is told the id of a VM after each act on it, whatever came of it."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        registry: VmRegistry,
        aside: SetAside,
        making: VmMaking,
        seeding: Seeding,
        statuses: VmStatuses,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._hypervisor, self._registry, self._aside = hypervisor, registry, aside
        self._making, self._seeding, self._statuses = making, seeding, statuses
        self._room = HostRoom(limits, hypervisor, registry, aside, statuses)
        self._operations = Operations()
        self._operations.on_long = lambda vm: self.on_change(vm)
        statuses.act = self.act_on
        statuses.acted = self._operations.last().get
        self.on_change: Callable[[str], None] = lambda vm: None
        #: Awaited before a VM is told to run whose guest goes on with clocks that stood still; whether it is a new
        #: generation.
        self.on_wake: Callable[[str, bool], Awaitable[None]] = _nothing

    async def settle(self) -> None:
        """Make the registry and the hypervisor agree, after the driver was opened; see ``host_agent.settling``."""
        await settle(self._hypervisor, self._registry, self._aside, self._statuses.missing)

    def act_on(self, vm: str) -> VmAct | None:
        """Say what is being done to a VM; None where nothing is."""
        acts = self._operations.at_work(vm)
        if not acts:
            return None
        return VmAct(verb=str(acts[0].verb), for_s=round(time.monotonic() - acts[0].began_s, 1), by=acts[0].by)

    def gone(self) -> list[VmGone]:
        """Name the VMs that were removed of late, and on whose behalf."""
        done = {Verb.DELETE.value, Verb.DISCARD.value}
        removed = [(vm, acted.by) for vm, acted in self._operations.last().items() if acted.verb in done]
        left = [VmGone(vm=vm, by=by) for vm, by in removed if self._registry.find(vm) is None]
        return [one for one in left if not self._aside.has(one.vm)][-MOST_GONE:]

    def is_at_work(self, vm: str) -> bool:
        """Say whether something is being done to a VM."""
        return bool(self._operations.at_work(vm))

    async def create(self, wanted: VmCreate, *, wish: Wish = Wish.OFF, by: str = "") -> VmStatus:
        """Make a VM, powered off. The same name with the same size again succeeds. Raises HostError; nothing is left
        then."""
        vm = await self._operations.run(wanted.name, Verb.CREATE, lambda: self._make(wanted, wish), by=by)
        self._operations.note(vm, Verb.CREATE, by)
        self.on_change(vm)
        return await self._statuses.one(vm)

    async def _make(self, wanted: VmCreate, wish: Wish) -> str:
        async with self._room.making(wanted):
            return await self._making.make(wanted, wish)

    async def act(self, verb: Verb, vm: str, more: More = NOTHING_MORE, *, by: str = "") -> VmStatus:
        """Carry out a verb, for somebody or for the agent itself, and give the state seen after it.

        Raises UnknownVm, IllegalVerb (both states named), UnknownSnapshot, SnapshotTaken, OverLimit, Interrupted,
        Unsupported, HypervisorError, BrokerError.
        """
        if not self._aside.has(vm):
            self._registry.get(vm)
        try:
            return await self._operations.run(vm, verb, lambda: self._act(verb, vm, more), by=by)
        finally:
            self.on_change(vm)

    async def snapshots(self, vm: str) -> list[VmSnapshot]:
        """List the snapshots of a VM, the oldest first. Raises UnknownVm, Unsupported, HypervisorError."""
        self._registry.get(vm)
        return await snapshots_of(self._hypervisor).list(vm)

    async def _act(self, verb: Verb, vm: str, more: More) -> VmStatus:
        state = await self._state(verb, vm)
        row = TRANSITIONS[verb]
        if not is_done(verb, state):
            self._check(verb, vm, state)
        async with contextlib.nullcontext() if is_done(verb, state) else self._room.taken_by(row, vm):
            if row.wish is not None and row.wishes_at_once:
                self._registry.wish(vm, row.wish)
            if not is_done(verb, state):
                try:
                    with naming_disk(f"{verb} of {self._name(vm)}"):
                        await self._carry_out(verb, DriverOrder(vm, more))
                except HypervisorError:
                    await self._leave_down(row, vm)
                    raise
        if row.wish is not None:
            self._registry.wish(vm, row.wish)
        status = await self._statuses.one(vm)
        if status.state in row.wish_in:
            self._registry.wish(vm, row.wish_in[status.state])
        if state in row.wakes_from and status.state is VmState.RUNNING:
            await self.on_wake(vm, row.raises_generation)
        log.info("vm verb", extra={"verb": str(verb), "vm": vm, "name_of_vm": status.name, "state": str(status.state)})
        return msgspec.structs.replace(status, act=None)  # this one has ended

    async def _leave_down(self, row: Transition, vm: str) -> None:
        """Where a verb that decides what a VM shall be has failed and ended it, only a person starts it again: from
        what, he chooses."""
        if row.wish_in and await self._statuses.state(vm) in AT_REST:
            self._registry.wish(vm, Wish.OFF)

    async def delete(self, vm: str, *, by: str = "") -> None:
        """Remove a VM and its files; its principal and queues go too. One that is not there is no error."""
        if self._registry.find(vm) is None and not self._aside.has(vm):
            return
        try:
            await self._operations.run(vm, Verb.DELETE, lambda: self._delete(vm), by=by)
        finally:
            self.on_change(vm)

    async def _delete(self, vm: str) -> None:
        state = await self._state(Verb.DELETE, vm)
        if not is_done(Verb.DELETE, state):
            self._check(Verb.DELETE, vm, state)
        name = self._name(vm)
        # Who finds it half deleted, or finds nothing of it, knows that it was meant.
        self._registry.note_made(vm, is_made=False)
        with naming_disk(f"delete of {name}"):
            await self._hypervisor.delete(vm)
            self._registry.remove(vm)
        log.info("vm deleted", extra={"vm": vm, "name_of_vm": name})

    async def discard(self, vm: str, *, by: str = "") -> VmStatus | None:
        """Throw away a VM's saved state and give its status, or all of a VM that was set aside and give None."""
        if not self._aside.has(vm):
            return await self.act(Verb.DISCARD, vm, by=by) if self._registry.find(vm) is not None else None
        try:
            await self._operations.run(vm, Verb.DISCARD, lambda: self._aside.discard(vm), by=by)
        finally:
            self.on_change(vm)
        return None

    async def adopt(self, vm: str, *, autostart: Callable[[str], bool], by: str = "") -> VmStatus:
        """Take a VM back that was set aside; ``autostart`` says of a name whether it is one to be kept running."""
        status = await self._statuses.one(vm)
        try:
            if self._aside.has(vm):
                keep = autostart(status.name)
                await self._operations.run(vm, Verb.ADOPT, lambda: self._aside.adopt(vm, autostart=keep), by=by)
        finally:
            self.on_change(vm)
        return await self._statuses.one(vm)

    async def poweroff_all(self) -> None:
        """End every VM; they are kept, and what they are wished to be stays.

        One that cannot be ended keeps no other running. Raises HypervisorError that names all such.
        """
        await poweroff_all(self._hypervisor, self._name)

    async def _state(self, verb: Verb, vm: str) -> VmState:
        """Say from which state a verb starts. Who powers off does not wait for a hypervisor that hangs."""
        if verb is not Verb.POWEROFF:
            return await self._statuses.state(vm)
        try:
            async with asyncio.timeout(POWEROFF_PATIENCE_S):
                return await self._statuses.state(vm)
        except (TimeoutError, HypervisorError):
            return VmState.UNKNOWN

    def _check(self, verb: Verb, vm: str, state: VmState) -> None:
        if not can(self._hypervisor.capabilities, verb):
            raise cannot(self._hypervisor, verb)
        if state is VmState.MISSING and not is_legal(verb, state):
            raise IllegalVerb(f"{self._name(vm)} is missing: {self._statuses.missing.reason(vm)}")
        if not is_legal(verb, state):
            allowed = ", ".join(sorted(TRANSITIONS[verb].legal_from))
            raise IllegalVerb(f"{self._name(vm)} is {state}: {verb} is allowed from {allowed}")

    def _name(self, vm: str) -> str:
        record = self._registry.find(vm)
        return record.name if record is not None else vm

    async def _carry_out(self, verb: Verb, order: DriverOrder) -> None:
        row = TRANSITIONS[verb]
        if row.do is None:
            raise IllegalVerb(f"{verb} has a command of its own")
        if row.check is not None:
            await row.check(self._hypervisor, order)
        seed = await self._seeding.next_seed(order.vm) if row.raises_generation else b""
        await row.do(self._hypervisor, order._replace(seed=seed))


async def _nothing(vm: str, is_new_generation: bool) -> None:
    return None
