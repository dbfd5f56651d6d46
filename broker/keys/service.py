"""The key manager at work: what comes to ``vc.enrol`` goes to the registrar, one by one, and the answers back.

It also hears from the broker itself who connected, and closes what an agent's new connection replaces: RabbitMQ's event
exchange says so at once, while the management API, whose list is read at each sweep for what was missed, lags 5 s.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from broker.backoff import backoff
from broker.connection import Connection, Delivery
from broker.dead_letters import bury
from broker.errors import BrokerError, ManagementError, Unroutable
from broker.keys.realm import BrokerRealm
from broker.keys.registrar import Registrar
from broker.keys.sessions import Sessions
from broker.link import DIRECT_REPLY_TO
from broker.management import ConnectionInfo
from broker.principals import EVENTS, Kind
from broker.routes import Route, kind_of, reply, sender_of
from schemas.codec import encode
from schemas.envelope import Failed, Message, Reply
from schemas.errors import DecodeError, ErrorCode

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Messages that wait here while one is being dealt with.
PREFETCH = 50
#: The management API knows a connection some 5 s after it was opened, and closes none before.
CLOSE_AGAIN_S = 0.5
CLOSE_ATTEMPTS = 20


class Service:
    """See the module. ``run`` until cancelled."""

    def __init__(
        self, connection: Connection, registrar: Registrar, realm: BrokerRealm, *, lifetime_s: float, sweep_s: float
    ) -> None:
        self._connection, self._registrar, self._realm = connection, registrar, realm
        self._lifetime_s, self._sweep_s = lifetime_s, sweep_s
        self._sessions = Sessions()
        self._in_turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registrar")

    async def run(self) -> None:
        """Serve until cancelled; what is unacknowledged then comes to the next one."""
        events = f"vc.replies.keys.events{secrets.token_hex(4)}"
        await self._connection.consume("vc.enrol", self._on_delivery, prefetch=PREFETCH)
        await self._connection.consume(events, self._on_event, bind_to=(EVENTS, "connection.*"))
        try:
            while True:
                await self._sweep()
                await asyncio.sleep(self._sweep_s)
        finally:
            self._thread.shutdown(wait=False)

    async def _on_delivery(self, delivery: Delivery) -> None:
        """Deal with one message; the lock is fair, so they keep their order."""
        async with self._in_turn:
            await self._take(delivery)

    async def _take(self, delivery: Delivery) -> None:
        """Answer, then acknowledge: what breaks off in between comes again and is answered alike."""
        sender = sender_of(delivery.routing_key, delivery.user_id)
        if sender is None:
            reason = "user_id is not the first word of the routing key"
            return await bury(self._connection, delivery, "foreign_key", reason)
        try:
            message = delivery.read()
        except DecodeError as error:
            return await bury(self._connection, delivery, "undecodable", error.reason)
        try:
            answer = await self._handle(sender, message)
        except Exception as error:
            log.exception("message failed", extra={"sender": sender})
            return await bury(self._connection, delivery, "failed", f"{type(error).__name__}: {error}")
        if answer is not None:
            await self._answer(delivery, sender, message, answer)
        return delivery.ack()

    async def _handle(self, sender: str, message: Message) -> Reply | None:
        """Ask the registrar for as long as the broker's management is away; what it refuses is told to the sender."""
        for wait_s in backoff(0.2, 10.0):
            try:
                return await self._in_thread(lambda: self._registrar.handle(sender, message, time.time()))
            except ManagementError as error:
                log.error("broker refused", extra={"sender": sender, "why": str(error)})
                if 400 <= error.status < 500:
                    return Failed(call=message.id, code=ErrorCode.INTERNAL, message="the broker refused; see the log")
            except (BrokerError, OSError, sqlite3.OperationalError) as error:
                log.error("broker or disk away", extra={"sender": sender, "why": str(error)})
            await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")

    async def _answer(self, delivery: Delivery, sender: str, message: Message, answer: Reply) -> None:
        route = _route_back(delivery, sender, message)
        if route is None:
            log.warning("no way to answer", extra={"sender": sender})
            return
        try:
            await self._connection.deliver(
                *route,
                encode(answer),
                message_id=answer.id,
                correlation_id=delivery.properties.correlation_id,
                persistent=_keeps_queue(sender),
                # An answer by direct reply-to arrives, and is nevertheless returned as unroutable (3.10).
                mandatory=bool(route.exchange),
            )
        except Unroutable:
            log.info("asker gone", extra={"sender": sender})

    async def _on_event(self, delivery: Delivery) -> None:
        """Close what a new connection replaces."""
        delivery.ack()
        headers = delivery.properties.headers or {}
        if delivery.routing_key == "connection.closed":
            self._sessions.closed(str(headers.get("name")))
        elif delivery.routing_key == "connection.created":
            await self._close(self._sessions.opened(_info(headers)))

    async def _sweep(self) -> None:
        """Delete old logins and repair what events missed; what fails is tried again at the next sweep."""
        try:
            await self._in_thread(lambda: self._registrar.sweep(time.time(), self._lifetime_s))
            await self._close(self._sessions.listed(await self._in_thread(self._realm.connections)))
        except BrokerError as error:
            log.warning("sweep failed", extra={"why": str(error)})

    async def _close(self, names: list[str]) -> None:
        await asyncio.gather(*(self._close_one(name) for name in names))

    async def _close_one(self, name: str) -> None:
        """Close a connection; one that the management API does not know yet, for as long as it is open."""
        for _ in range(CLOSE_ATTEMPTS):
            if await asyncio.to_thread(self._realm.close_connection, name, "the agent has a newer connection"):
                log.info("connection replaced", extra={"connection": name})
                return
            if not self._sessions.is_open(name):
                return
            await asyncio.sleep(CLOSE_AGAIN_S)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _keeps_queue(sender: str) -> bool:
    """Whether an answer may wait: consoles and one-time logins listen only while they are connected."""
    return kind_of(sender) not in (Kind.CONSOLE, Kind.ONCE)


def _route_back(delivery: Delivery, sender: str, message: Message) -> Route | None:
    """By what the broker vouches for; a one-time login has no queue, and names nothing but its direct reply-to. None
    for those that we may not write to: trying would close our connection."""
    if kind_of(sender) in (Kind.HOST, Kind.VM, Kind.CONSOLE):
        return reply("keys", sender, message.reply)
    reply_to = delivery.properties.reply_to or ""
    is_direct = kind_of(sender) == Kind.ONCE and reply_to.startswith(f"{DIRECT_REPLY_TO}.")
    return Route("", reply_to) if is_direct else None


def _info(headers: dict[str, Any]) -> ConnectionInfo:
    return ConnectionInfo(
        connected_at=int(headers.get("connected_at") or 0),
        name=str(headers.get("name") or ""),
        user=str(headers.get("user") or ""),
        label=str(headers.get("user_provided_name") or ""),
    )
