"""Recovery of a connection: another link when one breaks, with jitter, for ever.

It asks the address source for another credential when the login or a queue is refused. It never decides what is done
on a link; what was done on the last one is done again by ``start``, before the new one counts as up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from broker.address import Address
from broker.amqp.link import Link
from broker.backoff import backoff
from broker.errors import BrokerError, Disconnected, Forbidden, LoginRefused, QueueGone, Untrusted

log = logging.getLogger(__name__)

#: Asked for the address at first (False) and whenever the broker refused the last one (True).
AddressSource = Callable[[bool], Awaitable[Address]]

#: A link that lived this long was a good one, seconds: the next one is tried soon. One that breaks young is not.
STEADY_S = 10.0
#: How often an outage that goes on is logged, seconds.
DOWN_TOLD_EVERY_S = 60.0


class Recovery:
    """See the module. Belongs to one loop; ``wait_most_s`` is the longest wait before the next try, ``name`` the
    connection's."""

    def __init__(
        self,
        source: Address | AddressSource,
        start: Callable[[Link], Awaitable[None]],
        *,
        name: str,
        heartbeat_s: int,
        wait_most_s: float,
    ) -> None:
        self._source, self._start = source, start
        self._name, self._heartbeat_s, self._wait_most_s = name, heartbeat_s, wait_most_s
        self._runner: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._is_closing = False
        self._up = asyncio.Event()
        #: The newest link, whatever became of it; and that same one while it is open and all on it is started.
        self.link: Link | None = None
        self.up_link: Link | None = None
        #: Called each time a link is up.
        self.on_up: list[Callable[[], None]] = []
        #: Links made so far.
        self.links = 0
        #: Monotonic time since when the link is up; None while it is down.
        self.up_since: float | None = None
        #: What ended the last link, or why there is none yet.
        self.last_error: BrokerError = Disconnected("it does not answer")
        #: What was logged last of this outage, and when (monotonic).
        self._told_down = "", 0.0

    async def open(self, *, patience_s: float | None) -> None:
        """Connect for the first time. Raises Disconnected when the patience is at its end; LoginRefused, QueueGone,
        Forbidden or Untrusted where the address is a fixed one. Close it then."""
        self._opened = asyncio.get_running_loop().create_future()
        self._runner = asyncio.create_task(self._run(), name=f"connection {self._name}")
        await asyncio.wait([self._opened], timeout=patience_s)
        if not self._opened.done():
            raise Disconnected(f"no broker in {patience_s:.0f} s: {self.last_error}")
        self._opened.result()

    async def close(self) -> None:
        """End the link and have no other; in seconds, whatever the broker does. Idempotent."""
        self._is_closing = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        await self.drop()

    async def drop(self) -> None:
        """End the link; the next one asks the address source for a credential of the newest generation."""
        self._mark_down()
        if self.link is not None:
            await self.link.close()

    async def wait_up(self) -> None:
        """Wait until a link is up."""
        await self._up.wait()

    def require_link(self) -> Link:
        """Give the link that is up. Raises Disconnected."""
        if self.up_link is None:
            raise Disconnected(f"not connected: {self.last_error}")
        return self.up_link

    async def _run(self) -> None:
        waits = backoff(most_s=self._wait_most_s)
        refused = False
        while not self._is_closing:
            began = time.monotonic()
            self.last_error = reason = await self._live(refused)
            self._mark_down()
            if time.monotonic() - began > STEADY_S:
                waits = backoff(most_s=self._wait_most_s)
            refused = isinstance(reason, LoginRefused | QueueGone | Forbidden | Untrusted)
            if refused and isinstance(self._source, Address) and self._fail_open(reason):
                return
            self._log_down(str(reason))
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
            link = self.link = await self._connect(refused)
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
        await self._start(link)
        if link.closed.done():
            return link.closed.result()
        self._mark_up(link)
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

    def _mark_up(self, link: Link) -> None:
        self.up_link = link
        self.links += 1
        self._told_down = "", 0.0
        self.up_since = time.monotonic()
        self._up.set()
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _mark_down(self) -> None:
        self.up_link = None
        self._up.clear()
        self.up_since = None
