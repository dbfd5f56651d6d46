"""Beats: what the guest holds, said to the centre every few seconds, and what the centre answers to that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Never

from broker.errors import NotDelivered
from broker.rpc import Call, ServerClock, Uplink
from guest_agent.machine import load
from guest_agent.requests import Requests
from schemas.envelope import Reply
from schemas.jobs import AttemptRef, Holding, JobBeat, JobBeatAnswer

log = logging.getLogger(__name__)

#: An answer to a beat that took no longer than this tells the time, seconds.
FRESH_S = 2.0


class JobBeats:
    """See the module. ``run`` until cancelled."""

    def __init__(
        self,
        uplink: Uplink,
        requests: Requests,
        clock: ServerClock,
        *,
        holding: Callable[[], list[Holding]],
        stop: Callable[[AttemptRef], None],
        refused: Callable[[], dict[str, int]],
        on_time: Callable[[int], None],
    ) -> None:
        """``stop`` is called for each attempt that the centre wants ended, ``on_time`` with the centre's time, ms."""
        self._uplink, self._requests, self._clock = uplink, requests, clock
        self._holding, self._refused = holding, refused
        self._stop, self._on_time = stop, on_time
        #: The newest beat, and when it was sent: an answer that took long tells an old time.
        self._newest, self._sent_s = "", 0.0

    async def run(self, every_s: float) -> Never:
        """Beat until cancelled. The machine is looked at anew for each."""
        while True:
            await self._requests.look_in_thread()
            beat = JobBeat(holding=self._holding(), load=load(), refused=self._refused())
            self._newest, self._sent_s = beat.id, time.monotonic()
            try:
                await self._uplink.say("beat", beat, persistent=False)
            except NotDelivered as error:
                log.warning("beat not delivered", extra={"why": str(error)})
            await asyncio.sleep(every_s)

    async def on_answer(self, call: Call, message: JobBeatAnswer) -> Reply | None:
        """Learn the time, and end what the centre wants ended."""
        self._clock.learn(message.server_time_ms)
        if message.call == self._newest and time.monotonic() - self._sent_s < FRESH_S:
            self._on_time(message.server_time_ms)
        for ref in message.stop:
            self._stop(ref)
        return None
