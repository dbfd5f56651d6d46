"""What this host does for one guest that wants inputs: the right is shown, the file had, shown to it, and taken away.

A guest is a stranger: it is told nothing that the centre would not give it, what it asks for is bounded, and what it
says of a file is checked before it costs anybody else anything. One file at a time lies in its medium.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct

from broker.daemon.tasks import OwnedTasks, wholly
from broker.errors import BrokerError, TransferFailed
from broker.outbound import send
from broker.road import Road
from broker.routes import DOWN, Route, queue_of
from broker.token_buckets import TokenBuckets
from host_agent.errors import HostError
from host_agent.hypervisors.contract import InputMedium
from host_agent.inputs.store import KeptInput
from host_agent.inputs.sums import InputSums
from schemas.codec import clip
from schemas.envelope import Message
from schemas.errors import ErrorCode
from schemas.inputs import InputOutcome, InputReady, InputRefused, InputTaken, InputWait, InputWant

log = logging.getLogger(__name__)

#: Wants of one guest that are at work or wait; more are refused at once.
MOST_WANTS = 16
#: Wants of one guest: so many at once, and a second. Each costs the centre a question.
WANTS, WANTS_PER_S = 100, 2.0
#: Files that one guest may call damaged: so many at once, and a second. Each is read once more for it.
DOUBTS, DOUBTS_PER_S = 4, 1 / 600
#: How often a guest hears that its host is at work, seconds.
SAY_S = 2.0
#: Times that a file is had for one want: one that was damaged is fetched anew.
MOST_SHOWN = 3
#: A guest has so long to read what it is shown, seconds, and a second more for so many bytes.
READ_S, READ_BYTES_PER_S = 60.0, 1 << 20


class Served(Struct):
    """What guests were given, since this agent began."""

    files: int = 0
    octets: int = 0
    #: Without a fetch.
    hits: int = 0
    #: Wants that were refused, for whatever cause.
    refused: int = 0


class KeptInputs(Protocol):
    """Where inputs are kept on this host; see ``InputStore``."""

    def lend(self, sha256: str) -> AbstractContextManager[None]:
        """Keep a file for as long as the block lasts."""

    def find(self, sha256: str) -> KeptInput | None:
        """Give a file. Raises OSError."""

    def discard_damaged(self, kept: KeptInput) -> None:
        """Do away with a file that is not what its name says. Raises OSError."""


class FetchedInputs(Protocol):
    """Where an input comes from that is not kept here; see ``InputFetches``."""

    async def fetch(self, sha256: str, vm: str) -> KeptInput:
        """Have one kept here, for a VM. Raises TransferFailed."""

    def received(self, sha256: str) -> int:
        """Say how many bytes of one have come."""


class RightsOnInputs(Protocol):
    """Who may have what; see ``CentreInputs``."""

    async def demand_right(self, vm: str, sha256: str) -> None:
        """Return where a VM may have an input. Raises TransferFailed."""


class InputHouse(Struct, frozen=True):
    """What all guests of a host share."""

    store: KeptInputs
    fetches: FetchedInputs
    sums: InputSums
    centre: RightsOnInputs
    medium: InputMedium
    served: Served
    wants: TokenBuckets
    doubts: TokenBuckets


class GuestInputs:
    """See the module. Belongs to one loop; a guest's life on one road."""

    def __init__(self, house: InputHouse, vm: str, road: Road, turns: asyncio.Lock) -> None:
        """``turns``: who has it has the VM's medium, of whichever life."""
        self._house, self._vm, self._road = house, vm, road
        self._tasks = OwnedTasks(f"inputs of {vm}")
        self._medium = turns
        #: What is done for each want, and what the guest will say of the medium, by the want's id.
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._taken: dict[str, asyncio.Future[InputOutcome]] = {}

    def on_message(self, message: Message) -> bool:
        """Take what the guest says. False: it is nothing about inputs, or too much."""
        if isinstance(message, InputWant):
            return self._on_want(message)
        if isinstance(message, InputTaken):
            return self._on_taken(message)
        return False

    async def clear(self) -> None:
        """Show the guest nothing of what another agent, or life, has shown it. Idempotent."""
        async with self._medium:
            await self._eject()

    async def close(self) -> None:
        """Give up what is at work, and show the guest nothing. Idempotent."""
        await self._tasks.cancel()
        await self.clear()

    def _on_want(self, want: InputWant) -> bool:
        if want.id in self._serving:
            return False
        if len(self._tasks) >= MOST_WANTS or not self._house.wants.take(self._vm, time.monotonic()):
            self._refuse(want, ErrorCode.STORE, f"more than {MOST_WANTS} wants at a time, or {WANTS_PER_S:g} a second")
            return False
        task = self._tasks.spawn(self._serve(want), name=f"input {want.sha256[:12]} for {self._vm}")
        self._serving[want.id] = task
        task.add_done_callback(lambda _: self._serving.pop(want.id))
        return True

    def _on_taken(self, said: InputTaken) -> bool:
        """The guest is done with the medium, or with waiting for it."""
        taken, task = self._taken.get(said.want), self._serving.get(said.want)
        if taken is not None and not taken.done():
            taken.set_result(said.outcome)
        elif task is not None:
            task.cancel()
        return task is not None

    async def _serve(self, want: InputWant) -> None:
        telling = asyncio.ensure_future(self._tell_waits(want))
        try:
            await self._house.centre.demand_right(self._vm, want.sha256)
            if not await self._give(want):
                raise TransferFailed(ErrorCode.STORE, "the guest cannot read what this host shows it")
        except (HostError, BrokerError, OSError) as error:
            code = error.code if isinstance(error, BrokerError) else ErrorCode.STORE
            log.warning("input not served", extra={"vm": self._vm, "sha256": want.sha256, "why": _why(error)})
            self._refuse(want, code, _why(error))
        finally:
            telling.cancel()

    async def _give(self, want: InputWant) -> bool:
        """Show the guest the file until it has it; one that proves damaged is fetched again, once."""
        house = self._house
        with house.store.lend(want.sha256):
            for _ in range(MOST_SHOWN):
                kept, crc32, is_hit = await self._have(want)
                if crc32 is None:
                    continue
                outcome = await self._show(want, kept, crc32)
                if outcome is InputOutcome.READ:
                    self._count(kept, is_hit=is_hit)
                    return True
                if outcome is InputOutcome.UNREAD or not house.doubts.take(self._vm, time.monotonic()):
                    return False
                house.sums.forget(want.sha256)  # it is read again, and found to be so or not
        return False

    async def _have(self, want: InputWant) -> tuple[KeptInput, int | None, bool]:
        """Give the file, its CRC-32, and whether it was here; without one it was damaged, and is gone."""
        house = self._house
        kept = await asyncio.to_thread(house.store.find, want.sha256)
        is_hit = kept is not None
        if kept is None:
            house.sums.forget(want.sha256)
            kept = await house.fetches.fetch(want.sha256, self._vm)
        crc32 = await house.sums.of(kept)
        if crc32 is None:
            await asyncio.to_thread(house.store.discard_damaged, kept)
        return kept, crc32, is_hit

    async def _show(self, want: InputWant, kept: KeptInput, crc32: int) -> InputOutcome:
        async with self._medium:
            taken: asyncio.Future[InputOutcome] = asyncio.get_running_loop().create_future()
            self._taken[want.id] = taken
            try:
                name = await self._house.medium.insert(self._vm, kept.path)
                self._say(await asyncio.to_thread(self._ready, want, kept, crc32, name))
                async with asyncio.timeout(READ_S + kept.size / READ_BYTES_PER_S):
                    return await taken
            except TimeoutError:
                return InputOutcome.UNREAD
            finally:
                self._taken.pop(want.id, None)
                await wholly(self._eject())

    def _ready(self, want: InputWant, kept: KeptInput, crc32: int, name: str) -> InputReady:
        unit, medium = self._house.medium.unit_bytes, self._house.medium.kind
        with kept.path.open("rb") as file:
            tail = os.pread(file.fileno(), unit, kept.size // unit * unit) if unit > 1 else b""
        return InputReady(want=want.id, medium=medium, name=name, size=kept.size, crc32=crc32, tail=tail)

    async def _eject(self) -> None:
        with contextlib.suppress(HostError):  # a VM that has ended shows nothing
            await self._house.medium.eject(self._vm)

    def _count(self, kept: KeptInput, *, is_hit: bool) -> None:
        served = self._house.served
        served.files += 1
        served.octets += kept.size
        served.hits += is_hit
        log.info("input served", extra={"vm": self._vm, "sha256": kept.sha256, "bytes": kept.size, "hit": is_hit})

    async def _tell_waits(self, want: InputWant) -> None:
        said: asyncio.Future[None] | None = None
        while True:
            if said is None or said.done():  # to a guest that reads nothing no more is said
                said = self._say(InputWait(want=want.id, received=self._received(want.sha256)))
            await asyncio.sleep(SAY_S)

    def _received(self, sha256: str) -> int:
        house = self._house
        return house.fetches.received(sha256) + house.sums.read_bytes(sha256)

    def _refuse(self, want: InputWant, code: str, why: str) -> None:
        self._house.served.refused += 1
        self._say(InputRefused(want=want.id, code=ErrorCode(code), message=clip(why)))

    def _say(self, message: Message) -> asyncio.Future[None]:
        return send(self._road, Route(DOWN, f"{queue_of(self._vm)}.inputs"), message)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return ": ".join(filter(None, [str(error.filename or ""), error.strerror or str(error)]))
    return str(error)
