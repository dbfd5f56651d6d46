"""The host's ends of the local roads: one to each VM that runs, what its guest tells, and what is passed on to it.

What a guest says is a stranger's word: it is believed of the guest itself and of nothing else, and kept within bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection

from msgspec import Struct

from broker.delivery import Delivery
from broker.errors import NotDelivered, Unroutable
from broker.inbound import Letter, Refusal, take_in
from broker.outbound import deliver
from broker.road import Road
from broker.road.hearing import Otherwise
from broker.road.streams import to_socket
from broker.routes import UP, down, sender_of
from host_agent.hypervisors.contract import Hypervisor
from schemas.envelope import Refused, ServerTime
from schemas.ids import uuid7
from schemas.road import Say
from schemas.vms import GuestFacts, GuestReport

log = logging.getLogger(__name__)

#: How long what is passed on waits for a guest that is not there, seconds.
PATIENCE_S = 5.0
#: A guest that reports on itself more often than this offends, seconds.
LEAST_BETWEEN_S = 1.0
#: For how long a guest's word on itself holds, seconds.
WORD_S = 20.0


class _Guest(Struct):
    road: Road
    facts: GuestFacts | None = None
    at: float = 0.0


class Guests:
    """See the module. ``on_change`` is called with a VM whose guest is there, or not, or does something else."""

    def __init__(self, hypervisor: Hypervisor, me: str, on_change: Callable[[str], None]) -> None:
        self._hypervisor, self._me, self._on_change = hypervisor, me, on_change
        self._guests: dict[str, _Guest] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        #: It is known which VMs run.
        self._looked = asyncio.Event()
        #: Takes what a guest says to others than its host: the answers to what was passed on to it.
        self.otherwise: Otherwise = _nobody

    async def look(self, running: Collection[str]) -> None:
        """Have a road to each of these VMs, and to no other."""
        for vm in [vm for vm in self._guests if vm not in running]:
            await self._guests.pop(vm).road.close()
        for vm in running:
            if vm not in self._guests:
                await self._begin(vm)
        self._looked.set()

    async def close(self) -> None:
        """Leave all roads."""
        await self.look(())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def facts(self, vm: str) -> GuestFacts | None:
        """Give what a VM's agent has said of itself of late; None where it has not."""
        guest = self._guests.get(vm)
        return guest.facts if guest and guest.road.is_up and time.monotonic() - guest.at < WORD_S else None

    async def pass_on(self, vm: str, said: Say) -> None:
        """Say something to a guest, and wait until its agent has it; for a moment also until it is there at all. Raises
        Unroutable, Disconnected."""
        guest = await self._known(vm)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await guest.road.wait_up()
        except TimeoutError as error:
            raise Unroutable(guest.road.trouble) from error
        await guest.road.publish(said.exchange, said.key, said.body, message_id=said.message_id)

    async def _known(self, vm: str) -> _Guest:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._looked.wait()
        if vm not in self._guests:
            raise Unroutable(f"{vm} does not run on this host")
        return self._guests[vm]

    async def _begin(self, vm: str) -> None:
        socket = self._hypervisor.road(vm)
        if socket is None:
            return
        road = Road(to_socket(socket), user=self._me, peer=vm, otherwise=lambda said: self._on_other(vm, said))
        guest = self._guests[vm] = _Guest(road)
        road.on_up.append(lambda: self._spawn(vm, road))
        for kind in ("report", "refused"):
            await road.consume(f"{vm}.{kind}", lambda one: self._on_word(vm, guest, one), bind_to=(UP, f"{vm}.{kind}"))
        road.start()

    def _spawn(self, vm: str, road: Road) -> None:
        task = asyncio.ensure_future(self._tell_time(vm, road))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_time(self, vm: str, road: Road) -> None:
        """Tell a guest the host's time: by it the deadlines are judged of what the host asks for."""
        try:
            await deliver(road, down(vm), ServerTime(call=uuid7(), server_time_ms=int(time.time() * 1000)))
        except NotDelivered as error:
            log.info("time not told", extra={"vm": vm, "why": str(error)})

    def _on_word(self, vm: str, guest: _Guest, delivery: Delivery) -> None:
        letter = take_in(delivery)
        delivery.ack()
        if isinstance(letter, Refusal):
            guest.road.offend(letter.reason)
        elif isinstance(letter.message, GuestReport):
            if time.monotonic() - guest.at < LEAST_BETWEEN_S:
                guest.road.offend("reports")
            was, guest.facts, guest.at = self.facts(vm), letter.message.guest, time.monotonic()
            if was is None or (was.is_connected, was.holding) != (guest.facts.is_connected, guest.facts.holding):
                self._on_change(vm)
        else:
            self._note(vm, guest, letter)

    def _note(self, vm: str, guest: _Guest, letter: Letter) -> None:
        if isinstance(letter.message, Refused):
            log.warning("guest refused a message", extra={"vm": vm, "why": letter.message.reason})
        else:
            guest.road.offend("what no guest tells its host")

    async def _on_other(self, vm: str, said: Say) -> None:
        if said.exchange != UP or sender_of(said.key, vm) is None:
            self._guests[vm].road.offend("messages in another's name")
            raise Unroutable("a guest speaks for itself alone")
        await self.otherwise(said)


async def _nobody(said: Say) -> None:
    raise Unroutable(f"nobody waits for {said.key}")
