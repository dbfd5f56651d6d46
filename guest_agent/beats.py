"""Beats: what the guest holds, said to the centre every few seconds, and what the centre answers to that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Never

from broker.backoff import backoff
from broker.errors import NotDelivered
from broker.rpc import Call, ServerClock, Uplink
from guest_agent.machine import load
from guest_agent.requests import Requests
from guest_agent.told_files import FileWishes
from guest_agent.wall_clock import WallClock
from schemas.envelope import Reply
from schemas.jobs import AttemptRef, Holding, JobBeat, JobBeatAnswer

log = logging.getLogger(__name__)

#: Between the first two beats while the wall clock is in doubt, seconds; then more each time, up to what is usual.
IN_DOUBT_S, MOST_IN_DOUBT_S = 1.0, 60.0


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
        wish: Callable[[FileWishes], None],
        refused: Callable[[], dict[str, int]],
        wall_clock: WallClock,
    ) -> None:
        """``stop`` is called for each attempt that the centre wants ended, ``wish`` with what it wants of files."""
        self._uplink, self._requests, self._clock = uplink, requests, clock
        self._holding, self._refused = holding, refused
        self._stop, self._wish, self._wall_clock = stop, wish, wall_clock
        #: The newest beat, and when it was sent: an answer that took long tells an old time.
        self._newest, self._sent_s = "", 0.0
        self._soon = asyncio.Event()
        self._waits = backoff(IN_DOUBT_S, MOST_IN_DOUBT_S)
        wall_clock.on_doubt.append(self._ask_time)

    async def run(self, every_s: float) -> Never:
        """Beat until cancelled. The machine is looked at anew for each."""
        while True:
            self._soon.clear()
            await self._requests.look_in_thread()
            beat = JobBeat(holding=self._holding(), load=load(), refused=self._refused())
            self._newest, self._sent_s = beat.id, time.monotonic()
            try:
                await self._uplink.say("beat", beat, persistent=False)
            except NotDelivered as error:
                log.warning("beat not delivered", extra={"why": str(error)})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s if self._wall_clock.is_sure else min(every_s, next(self._waits))):
                    await self._soon.wait()

    def _ask_time(self) -> None:
        """Beat now. An answer that is under way was given before we stood still."""
        self._newest, self._waits = "", backoff(IN_DOUBT_S, MOST_IN_DOUBT_S)
        self._soon.set()

    async def on_answer(self, call: Call, message: JobBeatAnswer) -> Reply | None:
        """Learn the time, and end what the centre wants ended."""
        self._clock.learn(message.server_time_ms)
        if message.call == self._newest:
            self._wall_clock.follow(message.server_time_ms, time.monotonic() - self._sent_s)
        for ref in message.stop:
            self._stop(ref)
        self._wish(FileWishes(message.removes, message.wants, message.hands))
        return None
