"""A carrier over a byte stream: see ``broker.carrier``. What is confirmed was acknowledged by its reader.

The stream's other end is one principal, and whatever it says is that principal's. An end that does not keep to the
rules (garbage, a frame without end, more than it may have unsettled) is cut off for a while, and named.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from broker.backoff import backoff
from broker.delivery import DeliveryHandler, Subscription
from broker.errors import Breach, Disconnected, NotDelivered, Unroutable
from broker.road.dispatcher import Dispatcher, Otherwise, SpeaksFor
from broker.road.publisher import RoadPublisher
from broker.road.session import Anew, Event, Session, SessionBounds, Up
from broker.road.wire import Connect, Wire
from broker.token_buckets import TokenBuckets
from schemas.road import Say, Settled

log = logging.getLogger(__name__)

#: Bytes that are read at once.
_READ_BYTES = 256 * 1024
#: How often an end that is not answered says that it is there, seconds.
HELLO_S = 1.0
#: A stream on which the other end says nothing for so long is left for another, seconds.
SILENT_S = 8.0
#: Longest wait before the next try to have a stream, seconds.
AGAIN_MOST_S = 2.0
#: For how long an end that broke the rules is not listened to, seconds.
CUT_OFF_S = 60.0

#: Hellos of others than before, and messages of no use to anybody, that an end may say: so many at once, and a second.
HELLOS, HELLOS_PER_S = 20, 1.0
OFFENCES, OFFENCES_PER_S = 100, 1.0


class Road:
    """One end, as ``user``; at the other is ``peer``, or, where ``speaks_for`` says so, who is behind it."""

    def __init__(
        self,
        connect: Connect,
        *,
        user: str,
        peer: str,
        bounds: SessionBounds | None = None,
        otherwise: Otherwise | None = None,
        speaks_for: SpeaksFor | None = None,
        cut_off_s: float = CUT_OFF_S,
        is_ours: bool = False,
    ) -> None:
        """``is_ours``: at the other end is our own agent, which passes on what others say: nothing is an offence."""
        self.user, self.peer = user, peer
        self._connect, self._cut_off_s = connect, cut_off_s
        self._wire = Wire()
        self._session = Session(bounds)
        self._publisher = RoadPublisher(self._session, self._wire.write)
        self._dispatcher = Dispatcher(self._session, self._wire.write, speaks_for or (lambda said: peer), otherwise)
        self._publisher.on_flood = lambda: self._wire.breach("it lets nothing be said to it")
        if not is_ours:
            self._dispatcher.on_offence = self.offend
        self._hellos, self._offences = TokenBuckets(HELLOS, HELLOS_PER_S), TokenBuckets(OFFENCES, OFFENCES_PER_S)
        self._up = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._waits = backoff(0.1, AGAIN_MOST_S)
        self.on_up: list[Callable[[], None]] = []
        self.links = 0
        self.up_since: float | None = None
        #: Why there is no link, or none yet; and how often the other end was cut off.
        self.trouble, self.breaches = f"{peer} does not answer on the local road", 0

    @property
    def is_up(self) -> bool:
        """Both ends are there."""
        return self._up.is_set()

    def start(self) -> None:
        """Begin to look for the other end; it need not be there yet. Idempotent."""
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name=f"road to {self.peer}")

    async def open(self) -> None:
        """Begin, and wait until the other end is there."""
        self.start()
        await self.wait_up()

    async def close(self) -> None:
        """Leave the road. What is not confirmed fails with Disconnected. Idempotent."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        await self._dispatcher.close()

    async def wait_up(self) -> None:
        """Wait until both ends are there."""
        await self._up.wait()

    def send(self, exchange: str, key: str, body: bytes, *, message_id: str, **_: Any) -> asyncio.Future[None]:
        """Send at once, or as soon as the other end lets us; the caller bounds how many it leaves open."""
        if self.is_up:
            return self._publisher.publish(exchange, key, message_id, body)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(Disconnected(self.trouble))
        future.exception()
        return future

    async def publish(self, exchange: str, key: str, body: bytes, *, message_id: str, **options: Any) -> None:
        """Send once and wait until it is acknowledged. Raises Unroutable, Nacked or Disconnected."""
        await self.send(exchange, key, body, message_id=message_id, **options)

    async def deliver(self, exchange: str, key: str, body: bytes, *, message_id: str, **options: Any) -> None:
        """Send until it is acknowledged, under the same id each time. Raises Unroutable."""
        for wait_s in backoff(0.05, 2.0):
            try:
                await self.wait_up()
                return await self.publish(exchange, key, body, message_id=message_id, **options)
            except Unroutable:
                raise
            except NotDelivered as error:
                log.info("say again", extra={"key": key, "peer": self.peer, "why": str(error)})
                await asyncio.sleep(wait_s)
        return None

    async def consume(self, queue: str, handler: DeliveryHandler, *, prefetch: int = 100, **options: Any) -> None:
        """Take what the other end says to a queue; how much of it at a time, the road's bounds say."""
        self._dispatcher.add(Subscription(queue=queue, handler=handler, prefetch=prefetch, **options))

    def offend(self, what: str) -> None:
        """Count something of no use that the other end has said; after too much of it it is cut off."""
        if not self._offences.take("", time.monotonic()):
            self._wire.breach(f"a flood: {what}")

    async def _run(self) -> None:
        """Have a stream, live on it, have the next, until cancelled."""
        try:
            while True:
                try:
                    stream = await self._connect()
                    self._wire.attach(stream)
                    await self._live(stream.reader)
                except Breach as breach:
                    await self._cut_off(breach)
                except (OSError, EOFError) as error:
                    self._go_down(f"no local road to {self.peer}: {error or type(error).__name__}")
                except Exception as error:  # nothing that goes wrong in one life of a stream may end the road
                    log.exception("local road failed", extra={"peer": self.peer})
                    self._go_down(f"no local road to {self.peer}: {type(error).__name__}: {error}")
                await asyncio.sleep(next(self._waits))
        finally:
            self._go_down("the local road is closed")

    async def _live(self, reader: asyncio.StreamReader) -> None:
        """Read until the stream ends. Raises EOFError or OSError then; Breach."""
        self._wire.write(self._session.open())
        greeting = asyncio.create_task(self._greet())
        try:
            while piece := await reader.read(_READ_BYTES):
                began = time.monotonic()
                for event in self._session.receive(piece):
                    self._on(event)
                # However much it says, the other end has no more than two thirds of this process.
                await asyncio.sleep((time.monotonic() - began) / 2)
            raise EOFError("its end is closed")
        finally:
            greeting.cancel()

    async def _greet(self) -> None:
        """Say that we are here until the other end does: it may open its end after we have.

        A stream on which it never does is left for another: one half of it may be dead, which nobody tells.
        """
        silent_since = time.monotonic()
        while True:
            await asyncio.sleep(HELLO_S)
            if self.is_up:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > SILENT_S:
                self._wire.close()
            elif self._wire.is_clear:
                self._wire.write(self._session.hello())

    def _on(self, event: Event | bytes) -> None:
        match event:
            case bytes():
                self._wire.write(event)
            case Say():
                self._dispatcher.dispatch(event)
            case Settled():
                self._publisher.on_settled(event)
            case Anew():
                self._meet_anew()
            case Up():
                self._go_up()

    def _meet_anew(self) -> None:
        if not self._hellos.take("", time.monotonic()):
            raise Breach("a flood of hellos")
        self._forget(f"{self.peer} has begun anew")

    def _go_up(self) -> None:
        self.links += 1
        self._waits = backoff(0.1, AGAIN_MOST_S)
        self.up_since = time.monotonic()
        self.trouble = f"{self.peer} took the message and has not settled it"
        self._up.set()
        for callback in self.on_up:
            callback()

    def _forget(self, reason: str) -> None:
        self._up.clear()
        self.up_since = None
        self.trouble = reason
        self._dispatcher.forget()
        self._publisher.break_off(reason)

    def _go_down(self, reason: str) -> None:
        self._wire.close()
        self._forget(reason)

    async def _cut_off(self, breach: Breach) -> None:
        """Not listen to the other end for a while."""
        self.breaches += 1
        log.warning("local road cut off", extra={"peer": self.peer, "why": str(breach), "for_s": self._cut_off_s})
        self._go_down(f"{self.peer} was cut off: {breach}")
        await asyncio.sleep(self._cut_off_s)
