"""The guest's end of the local road: what it tells its host, and what the host has run here without a broker.

The host may do to its guest what it likes, with or without us; so whoever is at the other end of the road is obeyed as
a console is. Deadlines are by the host's clock, which it tells when the road is up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from broker.errors import NotDelivered
from broker.outbound import deliver
from broker.road import Connect, Road
from broker.road.streams import Listener, to_port
from broker.routes import queue_of, up
from broker.rpc import Call, Handler, Journal, Responder, ServerClock
from guest_agent.host_inputs import InputsFromHost
from guest_agent.machine import AGENT_VERSION
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
        facts: Callable[[], GuestFacts],
        wall_clock: WallClock,
        inputs: InputsFromHost,
    ) -> None:
        self._vm, self._facts, self._inputs = seed.vm, facts, inputs
        self._clock, self._wall_clock, self._hosts_word = ServerClock(), wall_clock, HostsWord()
        self._listener = Listener(state / seed.road.partition(":")[2])
        connect = self._way(seed.road)
        self.host = host_of(seed.vm) or "host-unknown"
        #: None: the seed names no road.
        self.carrier = None if connect is None else Road(connect, user=seed.vm, peer=self.host)
        self._handlers: dict[type[Message], Handler] = {ServerTime: Handler(run=self._on_time, senders=_HOST)}
        #: Messages of the host's that were refused, by reason.
        self.refused: Counter[str] = Counter()

    def take(self, handlers: Mapping[type[Message], Handler]) -> None:
        """Do for the host what these do for others, before ``run``."""
        self._handlers |= {kind: msgspec.structs.replace(one, senders=_HOST) for kind, one in handlers.items()}

    async def run(self, journal: Journal) -> None:
        """Serve the host until cancelled."""
        road = self.carrier
        if road is None:
            return
        responder = Responder(road, journal, self._handlers, clock=self._clock, version=AGENT_VERSION)
        self.refused = responder.refused
        road.on_up.append(self._clock.forget)
        await road.consume(queue_of(self._vm), responder.on_delivery)
        await self._inputs.meet(road)
        road.start()
        responder.recover(lambda kind: kind is Kind.HOST)
        try:
            await self._report(road)
        finally:
            await responder.close()
            await road.close()
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

    async def _on_time(self, call: Call, message: ServerTime) -> Reply | None:
        self._clock.learn(message.server_time_ms)
        stood_s = self._hosts_word.hear(message.server_time_ms, time.monotonic())
        if stood_s:
            log.info("this machine stood still", extra={"for_s": round(stood_s, 1)})
            self._wall_clock.stood_still(stood_s, message.server_time_ms)
        return None
