"""Inputs of a host's own jobs, shown to their guests by the fastest medium that the driver has: the files themselves,
where they lie, and of each guest those of its own job. A host without a medium sends them over the local road."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

from broker.daemon.tasks import OwnedTasks
from broker.errors import TransferFailed
from broker.road import Road
from broker.token_buckets import TokenBuckets
from host_agent.hypervisors.contract import InputMedium
from host_agent.inputs.serving import DOUBTS, DOUBTS_PER_S, WANTS, WANTS_PER_S, GuestInputs, InputHouse, Served
from host_agent.inputs.store import KeptInput
from host_agent.inputs.sums import InputSums
from schemas.envelope import Message
from schemas.errors import ErrorCode


class OwnFiles:
    """The files of the jobs of all guests, by SHA-256; nothing of them is ever changed here."""

    def __init__(self) -> None:
        self.by_vm: dict[str, dict[str, Path]] = {}

    @contextlib.contextmanager
    def lend(self, sha256: str) -> Iterator[None]:
        """Do nothing: they stay where they are."""
        yield

    def find(self, sha256: str) -> KeptInput | None:
        """Give a file. Raises OSError."""
        path = next((paths[sha256] for paths in self.by_vm.values() if sha256 in paths), None)
        return KeptInput(sha256=sha256, size=path.stat().st_size, path=path) if path is not None else None

    def discard_damaged(self, kept: KeptInput) -> None:
        """It is not what the job was given. Raises OSError."""
        raise OSError(0, "has changed since the job was given it", str(kept.path))

    async def demand_right(self, vm: str, sha256: str) -> None:
        """Return where a guest's job is given an input. Raises TransferFailed where it is not."""
        if sha256 not in self.by_vm.get(vm, {}):
            raise TransferFailed(ErrorCode.NOT_FOUND, "is no input of the job of this guest")

    async def fetch(self, sha256: str, vm: str) -> KeptInput:
        """There is nowhere to fetch from. Raises TransferFailed."""
        raise TransferFailed(ErrorCode.NOT_FOUND, "is no input of a job here")

    def received(self, sha256: str) -> int:
        """Nothing comes."""
        return 0


class OwnInputs:
    """See the module. Belongs to one loop."""

    def __init__(self, medium: InputMedium | None) -> None:
        self.files = OwnFiles()
        self.serves = medium is not None
        self._clearing = OwnedTasks("inputs of guests that have gone")
        self._guests: dict[str, GuestInputs] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        if medium is not None:
            wants, doubts = TokenBuckets(WANTS, WANTS_PER_S), TokenBuckets(DOUBTS, DOUBTS_PER_S)
            files = self.files
            self._house = InputHouse(files, files, InputSums(), files, medium, Served(), wants, doubts)

    def meet(self, vm: str, road: Road) -> None:
        """A guest's agent is there, a new one or anew."""
        if self.serves:
            self.leave(vm)
            guest = self._guests[vm] = GuestInputs(self._house, vm, road, self._turns.setdefault(vm, asyncio.Lock()))
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
        """Give up what is at work. Idempotent."""
        guests, self._guests = self._guests, {}
        await asyncio.gather(*(one.close() for one in guests.values()), return_exceptions=True)
        await self._clearing.finish()
