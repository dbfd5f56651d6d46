"""Inputs that the host has for its guest, and what a guest makes of a host that is slow, old, or has none: it fetches
for itself, within seconds.

The host has found its digest right; a file is under its name once its size and CRC-32 are as that one told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from broker.delivery import Delivery
from broker.errors import BrokerError, Unroutable
from broker.inbound import Refusal, take_in
from broker.outbound import publish, send
from broker.road import Road
from broker.routes import queue_of, up
from guest_agent.errors import NotFromHost
from guest_agent.shown import take
from schemas.envelope import Message
from schemas.ids import Kind
from schemas.inputs import InputOutcome, InputReady, InputRefused, InputTaken, InputWait, InputWant

log = logging.getLogger(__name__)

#: How long the host may not be there, or not take what is said to it, seconds.
ROAD_S = 3.0
#: How long it may say nothing at all, seconds; it does so every 2 s.
SILENT_S = 8.0
#: How long nothing of the file may come to it, seconds, whatever it says.
STALLED_S = 30.0
#: A host that does not know the question is not asked again for so long, seconds, unless its agent is a new one.
NOT_AGAIN_S = 300.0
#: Shown a damaged file, a guest waits for another one.
MOST_ANSWERS = 3

#: Puts the file that was shown under a target: see ``shown.take``.
Take = Callable[[Path, InputReady, Path], InputOutcome]


class _Want:
    """What is waited for of one want, and until when."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[InputReady | InputRefused] = asyncio.Queue()
        self.received = -1
        self.grown_s = self.heard_s = time.monotonic()

    def on_wait(self, received: int) -> None:
        """The host is at it."""
        self.heard_s = time.monotonic()
        if received > self.received:
            self.received, self.grown_s = received, self.heard_s

    def patience_s(self) -> float:
        """Say how long to wait from now on; 0 = no longer."""
        return max(0.0, min(self.heard_s + SILENT_S, self.grown_s + STALLED_S) - time.monotonic())


class InputsFromHost:
    """See the module. Belongs to one loop. Without a road there is no host to ask."""

    def __init__(self, state: Path, take_shown: Take = take) -> None:
        self._state, self._take = state, take_shown
        self._road: Road | None = None
        self._wants: dict[str, _Want] = {}
        self._not_before_s = 0.0

    async def meet(self, road: Road) -> None:
        """Ask the host by this road from now on."""
        road.on_up.append(self._on_up)
        await road.consume(f"{queue_of(road.user)}.inputs", self._on_delivery)
        self._road = road

    async def fetch(self, sha256: str, target: Path) -> bool:
        """Have the host's file under ``target``, durable and verified. False: it has none, or is too slow."""
        if self._road is None or time.monotonic() < self._not_before_s:
            return False
        try:
            await self._fetch(self._road, sha256, target)
        except Unroutable:
            self._not_before_s = time.monotonic() + NOT_AGAIN_S
            log.info("this host has no inputs for its guests")
        except (BrokerError, NotFromHost, TimeoutError, OSError) as error:
            log.info("input not from the host", extra={"sha256": sha256, "why": str(error) or "it does not answer"})
        else:
            return True
        return False

    async def _fetch(self, road: Road, sha256: str, target: Path) -> None:
        ask = InputWant(sha256=sha256)
        want = self._wants[ask.id] = _Want()
        try:
            await _tell(road, ask)
            for _ in range(MOST_ANSWERS):
                ready = await self._answer(road, ask.id, want)
                try:
                    outcome = await asyncio.to_thread(self._take, self._state, ready, target)
                except OSError:
                    # Others of this VM wait for the medium.
                    await _tell(road, InputTaken(want=ask.id, outcome=InputOutcome.UNREAD))
                    raise
                await _tell(road, InputTaken(want=ask.id, outcome=outcome))
                if outcome is InputOutcome.READ:
                    log.info("input from the host", extra={"sha256": sha256, "bytes": ready.size})
                    return
                want.on_wait(want.received + 1)
                if outcome is InputOutcome.UNREAD:
                    raise NotFromHost(f"what it shows cannot be read here: {ready.medium} {ready.name}")
            raise NotFromHost("what it shows is damaged")
        finally:
            del self._wants[ask.id]

    async def _answer(self, road: Road, ask: str, want: _Want) -> InputReady:
        while patience_s := want.patience_s():
            try:
                async with asyncio.timeout(patience_s):
                    answer = await want.answers.get()
            except TimeoutError:
                continue  # it may have said meanwhile that it is at it
            if isinstance(answer, InputRefused):
                raise NotFromHost(answer.message)
            return answer
        _give_up(road, ask)
        raise NotFromHost("it is silent" if time.monotonic() > want.heard_s + SILENT_S else "nothing comes to it")

    def _on_up(self) -> None:
        """The host's agent is another, perhaps a newer one."""
        self._not_before_s = 0.0

    def _on_delivery(self, delivery: Delivery) -> None:
        delivery.ack()
        letter = take_in(delivery)
        if isinstance(letter, Refusal) or letter.kind is not Kind.HOST:
            return
        self._on_message(letter.message)

    def _on_message(self, message: Message) -> None:
        want = self._wants.get(getattr(message, "want", ""))
        if want is None:
            if isinstance(message, InputReady) and self._road is not None:
                _give_up(self._road, message.want)
        elif isinstance(message, InputWait):
            want.on_wait(message.received)
        elif isinstance(message, InputReady | InputRefused) and want.answers.qsize() < MOST_ANSWERS:
            want.answers.put_nowait(message)


def _give_up(road: Road, want: str) -> None:
    """Let the host know that nobody waits: it need not show, or fetch, anything for it."""
    send(road, up(road.user, "input"), InputTaken(want=want, outcome=InputOutcome.UNREAD))


async def _tell(road: Road, message: InputWant | InputTaken) -> None:
    """Say it once. Raises NotDelivered, TimeoutError."""
    async with asyncio.timeout(ROAD_S):
        await road.wait_up()
        await publish(road, up(road.user, "input"), message)
