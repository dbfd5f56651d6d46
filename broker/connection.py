"""A principal's connection to the broker: one that comes back.

It reconnects with jitter for ever, starts its consumers again, and asks its address source for another credential when
the login or a queue is refused. What is in flight when a link breaks fails with Disconnected: outcome unknown, publish
again with the same id (``deliver`` does so). It never decides what a message means.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from broker.address import Address
from broker.amqp.link import Link
from broker.backoff import backoff
from broker.daemon.tasks import OwnedTasks
from broker.delivery import Delivery, DeliveryHandler, Properties, Subscription
from broker.errors import (
    BrokerError,
    Crowded,
    Disconnected,
    Forbidden,
    LoginRefused,
    NotDelivered,
    QueueGone,
    Unroutable,
    Untrusted,
)

log = logging.getLogger(__name__)

__all__ = ["AddressSource", "Connection", "Delivery", "DeliveryHandler", "Properties", "Subscription"]

#: Asked for the address at first (False) and whenever the broker refused the last one (True).
AddressSource = Callable[[bool], Awaitable[Address]]

#: Longest wait before the next try to connect, seconds: of agents, whose rush on a broker that is back is spread so,
#: and of the few for whom a person waits, which are the centre's own processes and his console.
AGENT_WAIT_MOST_S, CENTRE_WAIT_MOST_S = 10.0, 1.0
#: A link that lived this long was a good one, seconds: the next one is tried soon. One that breaks young is not.
STEADY_S = 10.0
#: How often an outage that goes on is logged, seconds.
DOWN_TOLD_EVERY_S = 60.0
#: Messages that may be on their way unconfirmed.
WINDOW = 1000


class Connection:
    """See the module. All methods belong to the loop that opened it."""

    def __init__(
        self,
        source: Address | AddressSource,
        *,
        name: str,
        heartbeat_s: int = 10,
        wait_most_s: float = AGENT_WAIT_MOST_S,
    ) -> None:
        self._source = source
        self._wait_most_s = wait_most_s
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._link: Link | None = None
        self._subscriptions: list[Subscription] = []
        self._direct: DeliveryHandler | None = None
        self._up = asyncio.Event()
        self._window = asyncio.Semaphore(WINDOW)
        self._handling = OwnedTasks(f"connection {name}")
        self._runner: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        #: Called each time a link is up and its consumers run; for hellos and for what must be said again.
        self.on_up: list[Callable[[], None]] = []
        #: Links made so far; above 1 means reconnects.
        self.links = 0
        #: Monotonic time since when the link is up; None while it is down.
        self.up_since: float | None = None
        self._is_closing = False
        #: What ended the last link, or why there is none yet.
        self.last_error = "it does not answer"
        #: What was logged last of this outage, and when (monotonic).
        self._told_down = "", 0.0
        #: The last link was refused because this principal has as many connections as it may.
        self.is_crowded = False

    @property
    def user(self) -> str:
        """The principal as whom the last link logged in; empty before the first."""
        return self._link.user if self._link else ""

    @property
    def trouble(self) -> str:
        """Say why nothing is confirmed: what ended the last link, or that the broker on this one is silent or full."""
        if self._link is None or not self.is_up:
            return self.last_error
        return self._link.blocked or "it took the message and does not confirm it"

    @property
    def is_up(self) -> bool:
        """A link is open and its consumers run."""
        return self._up.is_set()

    async def __aenter__(self) -> Connection:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, *, patience_s: float | None = None) -> None:
        """Connect for the first time.

        With ``patience_s`` None it waits for a broker that is down for as long as it takes; a refused login or queue
        of a fixed address raises LoginRefused or QueueGone. Raises Disconnected when the patience is at its end.
        """
        self._opened = asyncio.get_running_loop().create_future()
        self._runner = asyncio.create_task(self._run(), name=f"connection {self._name}")
        try:
            await asyncio.wait([self._opened], timeout=patience_s)
            if not self._opened.done():
                raise Disconnected(f"no broker in {patience_s:.0f} s: {self.last_error}")
            self._opened.result()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop consumers and tasks, close the link; in seconds, whatever the broker does. Idempotent."""
        self._is_closing = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        self._mark_down()
        if self._link is not None:
            await self._link.close()
        await self._handling.cancel()

    async def reconnect(self) -> None:
        """Drop the link; the next one asks the address source for a credential of the newest generation."""
        self._mark_down()
        if self._link is not None:
            await self._link.close()

    async def wait_up(self) -> None:
        """Wait until a link is open and its consumers run."""
        await self._up.wait()

    async def publish(self, exchange: str, key: str, body: bytes, *, mandatory: bool = True, **properties: Any) -> None:
        """Publish and wait for the confirm. Raises Unroutable, Refused, Forbidden or Disconnected."""
        async with self._window:
            await self.send(exchange, key, body, mandatory=mandatory, **properties)

    def send(
        self, exchange: str, key: str, body: bytes, *, mandatory: bool = True, **properties: Any
    ) -> asyncio.Future[None]:
        """Publish at once and return the confirm's future; the caller bounds how many it leaves open."""
        if self._link is None or not self._up.is_set():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(Disconnected(f"not connected: {self.last_error}"))
            future.exception()
            return future
        return self._link.send(exchange, key, body, Properties(**properties), mandatory=mandatory)

    async def deliver(self, exchange: str, key: str, body: bytes, *, message_id: str, **properties: Any) -> None:
        """Publish until confirmed, with the same id each time; only Unroutable and Forbidden end it."""
        for wait_s in backoff(0.05, 10.0):
            try:
                await self.wait_up()
                return await self.publish(exchange, key, body, message_id=message_id, **properties)
            except (Unroutable, Forbidden):
                raise
            except NotDelivered as error:
                log.info("publish again", extra={"key": key, "why": str(error)})
                await asyncio.sleep(wait_s)
        return None

    async def consume(self, queue: str, handler: DeliveryHandler, *, prefetch: int = 100, **options: Any) -> None:
        """Consume ``queue`` from now on and after every reconnect. Raises QueueGone or Disconnected this first time."""
        subscription = Subscription(queue=queue, handler=handler, prefetch=prefetch, **options)
        self._subscriptions.append(subscription)
        if self._link is not None and self._up.is_set():
            await self._link.subscribe(subscription, self._handling.spawn)

    async def depth(self, queue: str) -> tuple[int, int]:
        """Count a queue's messages that nobody holds, and its consumers. Raises QueueGone or Disconnected."""
        if self._link is None or not self.is_up:
            raise Disconnected(f"not connected: {self.last_error}")
        return await self._link.depth(queue)

    async def lock(self, name: str) -> None:
        """Hold what only one connection holds at a time, until this one ends: an exclusive queue of that name. Raises
        Forbidden while another holds it, and this connection is of no use then; Disconnected."""
        if self._link is None or not self.is_up:
            raise Disconnected(f"not connected: {self.last_error}")
        await self._link.lock(name)

    async def consume_direct(self, handler: DeliveryHandler) -> None:
        """Take answers by direct reply-to, from now on and after every reconnect."""
        self._direct = handler
        if self._link is not None and self._up.is_set():
            await self._link.subscribe_direct(handler, self._handling.spawn)

    async def _run(self) -> None:
        waits = backoff(most_s=self._wait_most_s)
        refused = False
        while not self._is_closing:
            began = time.monotonic()
            reason = await self._live(refused)
            self._mark_down()
            if time.monotonic() - began > STEADY_S:
                waits = backoff(most_s=self._wait_most_s)
            self.last_error = str(reason)
            self.is_crowded = isinstance(reason, Crowded)
            refused = isinstance(reason, LoginRefused | QueueGone | Forbidden | Untrusted)
            if refused and isinstance(self._source, Address) and self._fail_open(reason):
                return
            self._log_down(self.last_error)
            await asyncio.sleep(next(waits))

    def _log_down(self, why: str) -> None:
        """Log why there is no link; of one outage, what stays the same once a minute."""
        told, told_at = self._told_down
        if why != told or time.monotonic() - told_at > DOWN_TOLD_EVERY_S:
            self._told_down = why, time.monotonic()
            log.info("link down", extra={"connection": self._name, "why": why})

    async def _live(self, refused: bool) -> BrokerError:
        """Live one life of a link and say what ended it; nothing that goes wrong in it may end the runner."""
        link: Link | None = None
        try:
            link = self._link = await self._connect(refused)
            link.on_break = self._mark_down
            return await self._serve(link)
        except BrokerError as error:
            reason = error
        except OSError as error:
            reason = Disconnected(str(error))
        except Exception as error:
            log.exception("link failed", extra={"connection": self._name})
            reason = Disconnected(f"{type(error).__name__}: {error}")
        if link is not None and not link.closed.done():
            link.abandon()
        return reason

    async def _connect(self, refused: bool) -> Link:
        address = self._source if isinstance(self._source, Address) else await self._source(refused)
        return await Link.connect(address, name=self._name, heartbeat_s=self._heartbeat_s)

    async def _serve(self, link: Link) -> BrokerError:
        if self._direct is not None:
            await link.subscribe_direct(self._direct, self._handling.spawn)
        for subscription in self._subscriptions:
            await link.subscribe(subscription, self._handling.spawn)
        if link.closed.done():
            return link.closed.result()
        self.links += 1
        self._told_down = "", 0.0
        self.up_since = time.monotonic()
        self._up.set()
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)
        for callback in self.on_up:
            self._call(callback)
        return await asyncio.shield(link.closed)

    def _call(self, callback: Callable[[], None]) -> None:
        """Run one of ``on_up``: one that fails takes neither the link nor the others with it."""
        try:
            callback()
        except Exception:
            log.exception("callback failed", extra={"connection": self._name})

    def _fail_open(self, reason: BrokerError) -> bool:
        if self._opened is None or self._opened.done():
            return False
        self._opened.set_exception(reason)
        return True

    def _mark_down(self) -> None:
        self._up.clear()
        self.up_since = None
