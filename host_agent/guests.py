"""The host's ends of the local roads: one to each VM that runs, what its guest tells, and what is passed on to it.

What a guest says is a stranger's word: it is believed of the guest itself and of nothing else, and kept within bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from msgspec import Struct

from broker.daemon.tasks import OwnedTasks
from broker.delivery import Delivery
from broker.errors import Disconnected, Unroutable
from broker.inbound import Letter, Refusal, take_in
from broker.outbound import send
from broker.road import Road
from broker.road.dispatcher import Otherwise
from broker.road.streams import to_socket
from broker.routes import UP, down, sender_of
from host_agent.errors import HostError
from host_agent.hypervisors.contract import Hypervisor
from schemas.codec import clip
from schemas.envelope import Message, Refused, ServerTime
from schemas.ids import uuid7
from schemas.road import Say
from schemas.vms import GuestFacts, GuestReport, VmState

log = logging.getLogger(__name__)

#: How often it is looked which VMs run, seconds.
LOOK_S = 2.0
#: How long what is passed on waits for a guest that is not there, seconds.
PATIENCE_S = 5.0
#: How long a guest may take to acknowledge it, seconds: together less than who asked waits for a broker.
TAKE_S = 3.0
#: How long the guest of a VM that goes on may take to hear the time, seconds: there may be no agent of ours in it.
BACK_S = 4.0
#: A word on the time that a guest has taken within this came in time, seconds: it leaves a clock that is as near alone.
PROMPT_S = 0.5
#: What guests say of themselves makes the host tell the centre so often at most, seconds.
CHANGE_S = 5.0
#: A guest that reports on itself more often than this offends, seconds.
LEAST_BETWEEN_S = 1.0
#: For how long a guest's word on itself holds, seconds.
WORD_S = 20.0


class InputsForGuests(Protocol):
    """What has inputs for guests; see ``InputGuests``."""

    @property
    def serves(self) -> bool:
        """Guests may ask for inputs."""

    def meet(self, vm: str, road: Road) -> None:
        """A guest's agent is there, a new one or anew."""

    def leave(self, vm: str) -> None:
        """A guest has gone. Idempotent."""

    def on_message(self, vm: str, message: Message) -> bool:
        """Take what a guest says. False: it is nothing about inputs, or too much of it."""


class HostAsCentre(Protocol):
    """What is the centre of one guest, by its local road."""

    async def meet(self, road: Road) -> None:
        """Be its centre by this road from now on; before the road begins."""

    async def leave(self) -> None:
        """The road is left. Idempotent."""


class Rarely:
    """Calls something a while after it was asked to, however often it is asked meanwhile."""

    def __init__(self, after_s: float, call: Callable[[], None]) -> None:
        self._after_s, self._call = after_s, call
        self._due: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Have it called."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._after_s, self._now)

    def cancel(self) -> None:
        """Call it no more for what it was asked until now."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _now(self) -> None:
        self._due = None
        self._call()


class _Guest(Struct):
    road: Road
    facts: GuestFacts | None = None
    at: float = 0.0
    #: Our last word on the time, while the guest has not taken it.
    time_told: asyncio.Future[None] | None = None


class Guests:
    """See the module. ``on_change`` is called when guests are there, or not, or do something else: for all of them
    together every ``CHANGE_S`` at most, however often they say so."""

    def __init__(self, hypervisor: Hypervisor, me: str) -> None:
        self._hypervisor, self._me = hypervisor, me
        self.on_change: Callable[[], None] = lambda: None
        self._guests: dict[str, _Guest] = {}
        self._change = Rarely(CHANGE_S, lambda: self.on_change())
        self._tasks = OwnedTasks("guests")
        #: Roads are begun and left one at a time, so that none is begun twice.
        self._changing = asyncio.Lock()
        #: By VM, who tells its guest the time just now.
        self._telling: dict[str, asyncio.Task[None]] = {}
        #: It is known which VMs run.
        self._looked = asyncio.Event()
        #: Takes what a guest says to others than its host: the answers to what was passed on to it.
        self.otherwise: Otherwise = _nobody
        #: Has inputs for guests; None: they fetch for themselves.
        self.inputs: InputsForGuests | None = None
        #: By VM, what is the centre of its guest on this host; of others the broker leads to it.
        self.centres: dict[str, HostAsCentre] = {}

    async def watch(self, states: Callable[[], Awaitable[dict[str, VmState]]]) -> None:
        """Have a road to every VM that runs, with or without a broker; until cancelled. ``states`` raises nothing."""
        while True:
            seen = await states()
            running, unknown = (_in_state(seen, state) for state in (VmState.RUNNING, VmState.UNKNOWN))
            try:
                await self.look(running, unknown)
            except (HostError, OSError) as error:
                log.warning("guests not looked for", extra={"why": str(error)})
            await asyncio.sleep(LOOK_S)

    async def look(self, running: Collection[str], unknown: Collection[str] = ()) -> None:
        """Have a road to each VM that runs, and to no other; one of which nobody knows keeps what it has.

        A paused VM has none: what were said to it would lie in wait, and be done when nobody wants it any more.
        """
        async with self._changing:
            for vm in [vm for vm in self._guests if vm not in running and vm not in unknown]:
                if self.inputs is not None:
                    self.inputs.leave(vm)
                await self._leave(vm)
                self._change.soon()
            for vm in running:
                if vm not in self._guests:
                    await self._begin(vm)
        self._looked.set()

    async def meet_anew(self, vm: str, centre: HostAsCentre | None) -> None:
        """Have somebody else, or nobody here, be a guest's centre, by another road if there is one."""
        async with self._changing:
            has_road = vm in self._guests
            if has_road:
                await self._leave(vm)
            if centre is not None:
                self.centres[vm] = centre
            else:
                self.centres.pop(vm, None)
            if has_road:
                await self._begin(vm)

    async def close(self) -> None:
        """Leave all roads."""
        await self._tasks.cancel()
        await self.look(())
        self._change.cancel()

    def facts(self, vm: str) -> GuestFacts | None:
        """Give what a VM's agent has said of itself of late; None where it has not."""
        guest = self._guests.get(vm)
        return guest.facts if guest and guest.road.is_up and time.monotonic() - guest.at < WORD_S else None

    async def back(self, vm: str, is_new_generation: bool) -> None:
        """A VM goes on that stood still: tell its guest the time before anybody hears that it runs. Waits for a
        moment only: there may be no agent of ours in it. Does not wait for a new generation: that has to log in anew,
        and begins no job before the centre has told it the time."""
        earlier = self._telling.get(vm)
        if earlier is not None:
            earlier.cancel()  # the VM has gone on once more since
        telling = self._telling[vm] = self._tasks.spawn(self._back(vm), name=f"time to {vm}")
        telling.add_done_callback(lambda done: self._telling.pop(vm) if self._telling.get(vm) is done else None)
        if not is_new_generation:
            await asyncio.wait([telling])

    async def _back(self, vm: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BACK_S):
                guest = self._guests.get(vm)
                if guest is None or not guest.road.is_up:
                    guest = await self._anew(vm)
                if guest is not None:
                    await self._tell_time_now(vm, guest)

    async def _anew(self, vm: str) -> _Guest | None:
        """Have a road to a VM that is another process now, or that had none while it stood still."""
        async with self._changing:
            if vm in self._guests:
                await self._leave(vm)
            await self._begin(vm)
            guest = self._guests.get(vm)
        if guest is not None:
            await guest.road.wait_up()
        return guest

    async def _tell_time_now(self, vm: str, guest: _Guest) -> None:
        """Tell a guest what time it is now, and wait until it has heard; what is under way was said before. A word that
        took long was late by as much, for all that we know: it is said again, as often as there is time for."""
        if guest.time_told is not None:
            await asyncio.wait([guest.time_told])
        took_s = math.inf
        while took_s > PROMPT_S:
            began_s = time.monotonic()
            self._tell_time(vm, guest)
            if guest.time_told is None or not guest.road.is_up:
                return
            await asyncio.wait([guest.time_told])
            took_s = time.monotonic() - began_s

    async def pass_on(self, vm: str, said: Say) -> None:
        """Say something to a guest, and wait until its agent has it; for a moment also until it is there at all. Raises
        Unroutable, Disconnected."""
        guest = await self._known(vm)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await guest.road.wait_up()
        except TimeoutError as error:
            raise Unroutable(guest.road.trouble) from error
        try:
            async with asyncio.timeout(TAKE_S):
                await guest.road.publish(said.exchange, said.key, said.body, message_id=said.message_id)
        except TimeoutError as error:
            raise Disconnected(f"the agent in {vm} took it and says nothing; it may still do it") from error

    async def _known(self, vm: str) -> _Guest:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._looked.wait()
        if vm not in self._guests:
            raise Unroutable(f"{vm} does not run on this host")
        return self._guests[vm]

    async def _leave(self, vm: str) -> None:
        if (centre := self.centres.get(vm)) is not None:
            await centre.leave()
        await self._guests.pop(vm).road.close()

    async def _begin(self, vm: str) -> None:
        roads = self._hypervisor.capabilities.roads
        if roads is None:
            return
        connect = to_socket(roads.socket(vm))
        road = Road(connect, user=self._me, peer=vm, otherwise=lambda said: self._on_other(vm, said))
        guest = self._guests[vm] = _Guest(road)
        road.on_up.append(lambda: self._on_up(vm, guest))
        inputs = ("input",) if self.inputs is not None and self.inputs.serves else ()
        for kind in ("report", "refused", *inputs):
            await road.consume(f"{vm}.{kind}", lambda one: self._on_word(vm, guest, one), bind_to=(UP, f"{vm}.{kind}"))
        if (centre := self.centres.get(vm)) is not None:
            await centre.meet(road)
        road.start()

    def _on_up(self, vm: str, guest: _Guest) -> None:
        guest.facts, guest.time_told = None, None
        if self.inputs is not None:
            self.inputs.meet(vm, guest.road)
        self._tell_time(vm, guest)
        self._change.soon()

    def _tell_time(self, vm: str, guest: _Guest) -> None:
        """Tell a guest the host's time: by it the deadlines are judged of what the host asks for. It is told again with
        each report: a host's clock may be set."""
        if guest.time_told is None or guest.time_told.done():
            word = ServerTime(call=uuid7(), server_time_ms=int(time.time() * 1000))
            guest.time_told = send(guest.road, down(vm), word)

    def _on_word(self, vm: str, guest: _Guest, delivery: Delivery) -> None:
        letter = take_in(delivery)
        delivery.ack()
        if isinstance(letter, Refusal):
            guest.road.offend(letter.reason)
        elif isinstance(letter.message, GuestReport):
            self._on_report(vm, guest, letter.message.guest)
        elif self.inputs is None or not self.inputs.on_message(vm, letter.message):
            self._note(vm, guest, letter)

    def _on_report(self, vm: str, guest: _Guest, facts: GuestFacts) -> None:
        if guest.facts is not None and time.monotonic() - guest.at < LEAST_BETWEEN_S:
            guest.road.offend("reports")
            return
        was, guest.facts, guest.at = guest.facts, facts, time.monotonic()
        self._tell_time(vm, guest)
        if was is None or (was.is_connected, was.holding) != (facts.is_connected, facts.holding):
            self._change.soon()

    def _note(self, vm: str, guest: _Guest, letter: Letter) -> None:
        guest.road.offend("refusals" if isinstance(letter.message, Refused) else "what no guest tells its host")
        if isinstance(letter.message, Refused):
            log.warning("guest refused a message", extra={"vm": vm, "why": clip(letter.message.reason)})

    async def _on_other(self, vm: str, said: Say) -> None:
        if said.exchange != UP or sender_of(said.key, vm) is None:
            if vm in self._guests:
                self._guests[vm].road.offend("messages in another's name")
            raise Unroutable("a guest speaks for itself alone")
        await self.otherwise(said)


def _in_state(states: dict[str, VmState], state: VmState) -> set[str]:
    return {vm for vm, seen in states.items() if seen is state}


async def _nobody(said: Say) -> None:
    raise Unroutable(f"nobody waits for {said.key}")
