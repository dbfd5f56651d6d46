"""Inputs of this host's guests put together: the store, its fetches, and who of the guests is served.

A host whose driver has no medium, or that keeps no inputs, serves nobody; its guests fetch for themselves.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from weakref import WeakValueDictionary

from broker.carrier import Carrier
from broker.daemon.tasks import OwnedTasks
from broker.road import Road
from broker.token_buckets import TokenBuckets
from host_agent.hypervisors.contract import Hypervisor
from host_agent.inputs.centre import CentreInputs
from host_agent.inputs.fetches import InputFetches
from host_agent.inputs.serving import DOUBTS, DOUBTS_PER_S, WANTS, WANTS_PER_S, GuestInputs, InputHouse, Served
from host_agent.inputs.store import InputStore
from host_agent.inputs.sums import InputSums
from schemas.envelope import Message
from schemas.vms import InputFacts

log = logging.getLogger(__name__)


class HostInputs:
    """See the module. Belongs to one loop."""

    def __init__(
        self,
        directory: Path,
        hypervisor: Hypervisor,
        connection: Carrier,
        me: str,
        *,
        limit_bytes: int,
        spare_bytes: int,
    ) -> None:
        self._hypervisor = hypervisor
        self._store = InputStore(directory.absolute(), limit_bytes=limit_bytes, spare_bytes=spare_bytes)
        self._centre = CentreInputs(connection, me)
        self._fetches = InputFetches(self._store, self._centre.fetch)
        self._sums = InputSums()
        self._served = Served()
        self._wants, self._doubts = TokenBuckets(WANTS, WANTS_PER_S), TokenBuckets(DOUBTS, DOUBTS_PER_S)
        self._guests: dict[str, GuestInputs] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._clearing = OwnedTasks("inputs of guests that have gone")
        self._is_open = False

    @property
    def serves(self) -> bool:
        """Guests of this host may ask it for inputs."""
        return self._is_open

    async def open(self) -> None:
        """Be ready to serve, before guests are met; a disk that fails is logged, and nobody is served then."""
        if not self._store.limit_bytes or self._hypervisor.capabilities.inputs is None:
            return
        try:
            await asyncio.to_thread(self._store.open)
        except OSError as error:
            log.error("no inputs are kept for guests", extra={"why": str(error)})
            return
        await self._centre.consume()
        self._is_open = True

    async def close(self) -> None:
        """Give up what is at work; what guests are shown is taken away. Idempotent."""
        guests, self._guests = self._guests, {}
        await asyncio.gather(*(one.close() for one in guests.values()), return_exceptions=True)
        await self._clearing.finish()
        await self._fetches.close()

    def meet(self, vm: str, road: Road) -> None:
        """A guest's agent is there, a new one or anew: what one before it was shown is taken away."""
        medium = self._hypervisor.capabilities.inputs
        if not self._is_open or medium is None:
            return
        self.leave(vm)
        house = InputHouse(
            self._store, self._fetches, self._sums, self._centre, medium, self._served, self._wants, self._doubts
        )
        turns = self._turns.setdefault(vm, asyncio.Lock())
        guest = self._guests[vm] = GuestInputs(house, vm, road, turns)
        self._clearing.spawn(guest.clear())

    def leave(self, vm: str) -> None:
        """A guest has gone, or nobody knows what it heard. Idempotent."""
        gone = self._guests.pop(vm, None)
        if gone is not None:
            self._clearing.spawn(gone.close())

    def on_message(self, vm: str, message: Message) -> bool:
        """Take what a guest says. False: it is nothing about inputs, or too much of it."""
        guest = self._guests.get(vm)
        return guest is not None and guest.on_message(message)

    def facts(self) -> InputFacts | None:
        """Say what is kept and what was served; None where nobody is served, or the disk fails."""
        if not self._is_open:
            return None
        try:
            files, kept_bytes = self._store.kept()
        except OSError as error:
            log.error("kept inputs cannot be counted", extra={"why": str(error)})
            return None
        served = self._served
        return InputFacts(
            limit_bytes=self._store.limit_bytes,
            kept_bytes=kept_bytes,
            files=files,
            fetches=self._fetches.made,
            fetched_bytes=self._fetches.fetched_bytes,
            served=served.files,
            served_bytes=served.octets,
            hits=served.hits,
            refused=served.refused,
            evictions=self._store.evictions,
        )
