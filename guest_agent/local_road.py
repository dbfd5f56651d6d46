"""The guest's end of the local road: what it tells its host, and what the host has run here without a broker.

The host may do to its guest what it likes, with or without us; so whoever is at the other end of the road is obeyed as
a console is. Deadlines are by the host's clock, which it tells when the road is up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from broker.errors import NotDelivered
from broker.outbound import deliver
from broker.road import Connect, Road
from broker.road.streams import Listener, to_port
from broker.routes import queue_of, up
from broker.rpc import Call, Handler, Journal, Responder, ServerClock
from guest_agent.execs import Execs
from guest_agent.seed_port import find_port
from guest_agent.wall_clock import HostsWord, WallClock
from schemas.envelope import Message, Reply, ServerTime
from schemas.ids import Kind, host_of
from schemas.seed import Seed
from schemas.vms import GuestFacts, GuestReport

log = logging.getLogger(__name__)

#: How often the host is told how its guest does, seconds.
REPORT_S = 5.0
_HOST = frozenset({Kind.HOST})


class LocalRoad:
    """See the module. ``run`` until cancelled; a guest whose seed names no road has none, and nothing to do here."""

    def __init__(
        self,
        seed: Seed,
        state: Path,
        journal: Journal,
        execs: Execs,
        facts: Callable[[], GuestFacts],
        wall_clock: WallClock,
    ) -> None:
        self._vm, self._facts = seed.vm, facts
        self._clock, self._wall_clock, self._hosts_word = ServerClock(), wall_clock, HostsWord()
        self._listener = Listener(state / seed.road.partition(":")[2])
        connect = self._way(seed.road)
        self._road = None if connect is None else Road(connect, user=seed.vm, peer=host_of(seed.vm) or "host-unknown")
        self._responder = None
        if self._road is not None:
            self._road.on_up.append(self._clock.forget)
            self._responder = Responder(self._road, journal, self._handlers(execs), clock=self._clock)

    async def run(self) -> None:
        """Serve the host until cancelled."""
        if self._road is None or self._responder is None:
            return
        await self._road.consume(queue_of(self._vm), self._responder.on_delivery)
        self._road.start()
        self._responder.recover(lambda kind: kind is Kind.HOST)
        try:
            await self._report(self._road)
        finally:
            await self._responder.close()
            await self._road.close()
            await self._listener.close()

    async def _report(self, road: Road) -> None:
        while True:
            await road.wait_up()
            try:
                async with asyncio.timeout(REPORT_S):
                    await deliver(road, up(self._vm, "report"), GuestReport(guest=self._facts()))
            except (NotDelivered, TimeoutError) as error:
                log.info("report not delivered", extra={"why": str(error)})
            await asyncio.sleep(REPORT_S)

    def _way(self, road: str) -> Connect | None:
        kind, _, name = road.partition(":")
        if kind == "socket" and name:
            return self._listener.connect
        if kind == "port" and name:
            return to_port(lambda: find_port(name=name))
        if road:
            log.warning("this agent knows no such road", extra={"road": road[:100]})
        return None

    def _handlers(self, execs: Execs) -> dict[type[Message], Handler]:
        return {
            **{kind: Handler(run=handler.run, senders=_HOST) for kind, handler in execs.handlers().items()},
            ServerTime: Handler(run=self._on_time, senders=_HOST),
        }

    async def _on_time(self, call: Call, message: ServerTime) -> Reply | None:
        self._clock.learn(message.server_time_ms)
        stood_s = self._hosts_word.hear(message.server_time_ms, time.monotonic())
        if stood_s:
            log.info("this machine stood still", extra={"for_s": round(stood_s, 1)})
            self._wall_clock.stood_still(stood_s, message.server_time_ms)
        return None
