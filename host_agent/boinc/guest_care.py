"""Sees to a machine while its job runs: held up as the client wants it, brought back where it has ended by itself, let
go on where it is stuck, and left for later where it does not get on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import TypeVar

from broker.daemon.wakeup import Wakeup
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.guest_machine import GuestMachine
from host_agent.errors import GuestSilent, GuestStuck, HostError, Interrupted
from host_agent.own_centre.lone_host import LoneHost
from host_agent.own_centre.own_centre import OwnCentre
from host_agent.verbs import AT_REST
from schemas.vms import VmState

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Between two steps where nothing happens, and between two looks at what takes long, seconds.
STEP_S, LOOK_S = 1.0, 0.1
#: A guest that says nothing for so long while its machine runs is as good as dead, seconds: it may boot meanwhile.
SILENT_S = 1200.0
#: A machine of which its hypervisor says nothing for so long, or that is on its way, is ended, seconds.
UNANSWERED_S = 180.0
#: Suspensions of which people are told.
TOLD_SUSPENSIONS = 10
#: Ends of its own without a checkpoint between them, after which a machine is left for later.
MOST_CRASHES = 3
#: How often a machine that stands still for want of something is let go on again, seconds; and until it is left.
STUCK_AGAIN_S, STUCK_S = 10.0, 300.0


class GuestCare:
    """See the module."""

    def __init__(self, host: LoneHost, link: ClientLink, wakeup: Wakeup) -> None:
        self._host, self._link, self._wakeup = host, link, wakeup
        self._crashes = 0
        self._heard_s = self._known_s = self._held_s = time.monotonic()
        self._stuck_since_s: float | None = None
        self._freed_s = 0.0
        self._suspensions = 0

    def begin(self) -> None:
        """A machine has come up, or goes on."""
        self._heard_s = self._known_s = self._held_s = time.monotonic()
        self._stuck_since_s = None

    def got_on(self) -> None:
        """What has been done is kept."""
        self._crashes = 0

    async def step(self, machine: GuestMachine, centre: OwnCentre) -> VmState:
        """Look how a machine is, and see to it. Raises GuestSilent, HostError, Interrupted."""
        state = await machine.look()
        if state in AT_REST or state is VmState.SAVED:
            await self._bring_back(machine)
        elif state is VmState.STUCK:
            await self._free(machine)
        elif state in (VmState.RUNNING, VmState.PAUSED):
            self._stuck_since_s = None
            await self._follow_suspension(machine, state)
        await self._answer_for(machine, state)
        self._listen(machine, centre, state)
        return state

    async def _answer_for(self, machine: GuestMachine, state: VmState) -> None:
        """A machine of which nobody knows how it is, or that is on its way for ever, is ended and brought back."""
        now_s = time.monotonic()
        if state in (VmState.RUNNING, VmState.PAUSED, VmState.STUCK, VmState.SAVED, *AT_REST):
            self._known_s = now_s
        elif now_s - self._known_s > UNANSWERED_S:
            log.error("the virtual machine does not answer for %g s (%s): it is ended", UNANSWERED_S, state)
            self._known_s = now_s
            await self.unless_ending(machine.off())

    def demand_no_end(self) -> None:
        """Raise Interrupted where the client wants an end."""
        if self._link.will.must_end:
            raise Interrupted("the client wants an end")

    async def unless_ending(self, work: Awaitable[T]) -> T:
        """Do what takes long, and break it off when the client wants an end. Raises Interrupted then."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                self.demand_no_end()
                await asyncio.wait([task], timeout=LOOK_S)
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _follow_suspension(self, machine: GuestMachine, state: VmState) -> None:
        wanted = self._link.will.is_suspended
        try:
            if wanted and state is VmState.RUNNING:
                await self.unless_ending(machine.pause())
                self._suspensions += 1
                self._tell("suspended: the virtual machine stands still")
            elif not wanted and state is VmState.PAUSED:
                await self.unless_ending(machine.resume())
                self.begin()
                self._tell("resumed: the virtual machine goes on")
        except Interrupted:
            raise
        except HostError as error:
            # The next step looks how it is, and tries again.
            log.error("the virtual machine does not obey: %s", error)

    def _tell(self, text: str) -> None:
        """Tell of a suspension, unless there are many: a client that throttles makes one each second."""
        if self._suspensions <= TOLD_SUSPENSIONS or self._suspensions % 1000 == 0:
            log.info("%s%s", text, f" ({self._suspensions} times by now)" if self._suspensions > 1 else "")

    async def _bring_back(self, machine: GuestMachine) -> None:
        self._crashes += 1
        if self._crashes > MOST_CRASHES:
            raise GuestSilent(f"the virtual machine has ended by itself {self._crashes} times without getting on")
        log.warning("the virtual machine has ended by itself (%d of %d)", self._crashes, MOST_CRASHES)
        await self.unless_ending(machine.up())
        self.begin()

    async def _free(self, machine: GuestMachine) -> None:
        """A machine stands still for want of something of this host's, as a disk: let it go on as soon as it may. One
        whose guest, or hypervisor, is broken is ended and brought back."""
        now_s = time.monotonic()
        if not await machine.may_go_on():
            log.error("the virtual machine is broken, and is ended: %s", machine.reason)
            await self.unless_ending(machine.off())
            return
        if self._stuck_since_s is None:
            self._stuck_since_s = now_s
            log.warning("the virtual machine waits for this computer: %s", machine.reason)
        elif now_s - self._stuck_since_s > STUCK_S:
            raise GuestStuck(f"the virtual machine waits for this computer for minutes: {machine.reason}")
        if now_s - self._freed_s < STUCK_AGAIN_S:
            return
        self._freed_s = now_s
        try:
            await self.unless_ending(machine.resume())
        except Interrupted:
            raise
        except HostError as error:
            log.debug("it still does: %s", error)

    def _listen(self, machine: GuestMachine, centre: OwnCentre, state: VmState) -> None:
        """Count for how long a guest has said nothing, or has had nothing to do. Raises GuestSilent."""
        now_s = time.monotonic()
        if state is not VmState.RUNNING or centre.holding is not None:
            self._held_s = now_s
        if state is not VmState.RUNNING or self._host.guests.facts(machine.vm) is not None:
            self._heard_s = now_s
            if now_s - self._held_s > SILENT_S:
                raise GuestSilent(f"the guest does not take its job for {SILENT_S / 60:g} minutes")
        elif now_s - self._heard_s > SILENT_S:
            last = self._host.last_line(machine.vm)
            raise GuestSilent(f"the guest says nothing for {SILENT_S / 60:g} minutes; its console ended with: {last!r}")
