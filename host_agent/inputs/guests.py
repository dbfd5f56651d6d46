"""The guests of a host that are served inputs: each one's life on one road, and what is taken away when it has gone."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from broker.daemon.tasks import OwnedTasks
from broker.road import Road
from host_agent.inputs.serving import GuestInputs, InputHouse
from schemas.envelope import Message


class InputGuests:
    """See the module. Belongs to one loop."""

    def __init__(self, house: InputHouse | None = None) -> None:
        #: What serves them; None: nobody is served, and guests fetch for themselves.
        self.house = house
        self._guests: dict[str, GuestInputs] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._clearing = OwnedTasks("inputs of guests that have gone")

    @property
    def serves(self) -> bool:
        """Guests of this host may ask it for inputs."""
        return self.house is not None

    def meet(self, vm: str, road: Road) -> None:
        """A guest's agent is there, a new one or anew: what one before it was shown is taken away."""
        if self.house is None:
            return
        self.leave(vm)
        guest = self._guests[vm] = GuestInputs(self.house, vm, road, self._turns.setdefault(vm, asyncio.Lock()))
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

    async def close(self) -> None:
        """Give up what is at work; what guests are shown is taken away. Idempotent."""
        guests, self._guests = self._guests, {}
        await asyncio.gather(*(one.close() for one in guests.values()), return_exceptions=True)
        await self._clearing.finish()
