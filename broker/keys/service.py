"""The key manager at work: what comes to ``vc.enrol`` and ``vc.cuts`` goes to the registrar, and the answers back.

What one principal asks is done in order; what several ask, side by side, so that the trouble of one is its own. All is
settled, in bounded time: done, refused with a reason, or given up because the broker or the asker does not answer.

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
from pathlib import Path
from typing import Any, TypeVar

from broker.address import read_address
from broker.admission import Admission
from broker.amqp.link import DIRECT_REPLY_TO
from broker.backoff import backoff
from broker.carrier import Carrier
from broker.connection import CENTRE_WAIT_MOST_S, Connection
from broker.daemon.tasks import OwnedTasks
from broker.dead_letters import DeadLetterPublisher
from broker.delivery import Delivery
from broker.errors import BrokerError, ManagementError, Unroutable
from broker.inbound import Refusal, take_in
from broker.keys.config import KeysConfig, read_administrator
from broker.keys.realm import BrokerRealm
from broker.keys.registrar import Quotas, Registrar
from broker.keys.sessions import Sessions
from broker.keys.store import EnrolmentStore
from broker.management import MAX_LABEL, ConnectionInfo
from broker.outbound import deliver
from broker.principals import EVENTS, Principal, parse_principal
from broker.routes import Route, reply
from broker.turns import Turns
from schemas.codec import clip
from schemas.enrol import EnrolGranted, PrincipalCut
from schemas.envelope import Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.ids import Kind, kind_of

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Messages that are here, at work or waiting: of all, of one principal, of the VMs of one host together. A host may ask
#: for all its VMs at once, and all of them may start at once; one VM asks for one thing and waits.
PREFETCH = 2000
MOST_WAITING = 256
MOST_OF_A_VM = 8
MOST_OF_KIN = 256
#: Longest message that is read; the largest names a thousand VMs, bytes.
MOST_BODY_BYTES = 96 * 1024
#: Principals that are served at once; each waits for the broker's management most of the time.
THREADS = 8
#: After how long one-time logins are made ahead in place of those that were given, seconds.
FILL_AFTER_S = 2.0
#: How long one message is tried while the broker's management, or our disk, fails, seconds.
PATIENCE_S = 60.0
#: How long an answer is offered to a queue that does not take it; whoever misses it asks again, seconds.
ANSWER_S = 10.0
#: How often VMs are looked for for which nobody vouches, seconds.
REVIEW_S = 600.0
#: The management API knows a connection some 5 s after it was opened, and closes none before.
CLOSE_AGAIN_S = 0.5
CLOSE_ATTEMPTS = 20
#: How often, and after how long, seconds, it is asked for the connections of who was cut off.
LOOKS, LOOK_AGAIN_S = 4, 2.5
#: What a client is told whose connection is closed.
REPLACED, FLOODED = "the agent has a newer connection", "too many messages"


class Service:
    """See the module. ``run`` until cancelled."""

    def __init__(
        self, connection: Carrier, registrar: Registrar, realm: BrokerRealm, *, lifetime_s: float, sweep_s: float
    ) -> None:
        self._connection, self._registrar, self._realm = connection, registrar, realm
        self._lifetime_s, self._sweep_s = lifetime_s, sweep_s
        self._sessions = Sessions()
        self._dead_letters = DeadLetterPublisher(connection, cut_off=self._cut_off)
        self._admission = Admission(self._dead_letters)
        self._turns = Turns(PREFETCH, MOST_OF_KIN)
        self._swept_at = self._reviewed_at = time.monotonic()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="registrar")
        self._closing = OwnedTasks("key manager")
        self._is_filling = False

    async def run(self) -> None:
        """Serve until cancelled; what is unacknowledged then comes to the next one."""
        events = f"vc.replies.keys.events{secrets.token_hex(4)}"
        gate = self._admission.gate("vc.enrol")
        await self._connection.consume("vc.enrol", self._on_delivery, prefetch=PREFETCH, gate=gate)
        await self._connection.consume("vc.cuts", self._on_delivery)
        await self._connection.consume(events, self._on_event, bind_to=(EVENTS, "connection.*"))
        # A broker that was away may come back without them.
        self._connection.on_up.append(self._registrar.spares.forget)
        try:
            while True:
                await self._sweep()
                await asyncio.sleep(self._sweep_s)
        finally:
            await self._turns.close()
            await self._closing.cancel()
            self._threads.shutdown(wait=False)

    async def _on_delivery(self, delivery: Delivery) -> None:
        """Let one message wait for its sender's turn; what is none, or one too many, is settled at once."""
        if len(delivery.body) > MOST_BODY_BYTES:
            return await self._refuse(delivery, "undecodable", f"{len(delivery.body)} bytes, at most {MOST_BODY_BYTES}")
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            return await self._refuse(delivery, letter.reason, letter.detail)
        sender, message = letter.sender, letter.message
        most = MOST_OF_A_VM if letter.kind in (Kind.VM, Kind.ONCE) else MOST_WAITING
        kin = self._registrar.kin_of(sender)
        if not self._turns.take(sender, lambda: self._take(delivery, sender, message), most, kin):
            text = f"too many messages of {sender} wait already (at most {most}), or of all {kin} ({MOST_OF_KIN})"
            return await self._refuse(delivery, "flood", text)
        return None

    async def _refuse(self, delivery: Delivery, reason: str, text: str) -> None:
        await self._dead_letters.publish(delivery, reason, text)

    async def _take(self, delivery: Delivery, sender: str, message: Message) -> None:
        """Answer, then acknowledge: what breaks off in between comes again and is answered alike."""
        try:
            answer = await self._handle(sender, message)
            if isinstance(message, PrincipalCut):
                self._closing.spawn(self._close_all_of(message.principal))
            if answer is not None:
                await self._answer(delivery, sender, message, answer)
            if isinstance(answer, EnrolGranted) and not self._is_filling:
                self._is_filling = True
                self._closing.spawn(self._fill_spares())
        except Exception as error:
            log.exception("message failed", extra={"sender": sender})
            return await self._refuse(delivery, "failed", f"{type(error).__name__}: {clip(str(error))}")
        return delivery.ack()

    async def _fill_spares(self) -> None:
        """Make new one-time logins ahead, once the VM that has been given one has had time to start with it."""
        try:
            await asyncio.sleep(FILL_AFTER_S)
            await self._in_thread(self._registrar.spares.fill)
        except (BrokerError, OSError) as error:
            log.warning("no one-time logins made ahead", extra={"why": str(error)})
        finally:
            self._is_filling = False

    async def _handle(self, sender: str, message: Message) -> Reply | None:
        """Ask the registrar, for a while also while the broker's management is away; what is refused is told."""
        deadline = time.monotonic() + PATIENCE_S
        for wait_s in backoff(0.2, 10.0):
            try:
                return await self._in_thread(lambda: self._registrar.handle(sender, message, time.time()))
            except ManagementError as error:
                log.error("broker refused", extra={"sender": sender, "why": str(error)})
                if 400 <= error.status < 500:
                    return _cannot(message, "the broker refused")
            except (BrokerError, OSError, sqlite3.OperationalError) as error:
                log.error("broker or disk away", extra={"sender": sender, "why": str(error)})
            if time.monotonic() + wait_s > deadline:
                return _cannot(message, f"the broker, or the key manager's disk, has failed for {PATIENCE_S:.0f} s")
            await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")

    async def _answer(self, delivery: Delivery, sender: str, message: Message, answer: Reply) -> None:
        """Offer an answer for a while; whoever does not take it asks again and hears the same."""
        route = _route_back(delivery, sender, message)
        if route is None:
            log.warning("no way to answer", extra={"sender": sender})
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                await deliver(
                    self._connection,
                    route,
                    answer,
                    correlation_id=delivery.properties.correlation_id,
                    persistent=_keeps_queue(sender),
                    # An answer by direct reply-to arrives, and is nevertheless returned as unroutable (3.10).
                    mandatory=bool(route.exchange),
                )
        except Unroutable:
            log.info("asker gone", extra={"sender": sender})
        except TimeoutError:
            log.warning("answer not taken", extra={"sender": sender, "after_s": ANSWER_S})

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
        self._dead_letters.tell()
        served_s = self._served_s()
        upkeep = self._registrar.upkeep
        try:
            await self._in_thread(self._registrar.cutting.sweep)
            await self._in_thread(lambda: upkeep.sweep(served_s, self._lifetime_s))
            if time.monotonic() - self._reviewed_at > REVIEW_S:
                self._reviewed_at = time.monotonic()
                await self._in_thread(upkeep.review)
            await self._close(self._sessions.listed(await self._in_thread(self._realm.connections)))
        except (BrokerError, OSError, sqlite3.OperationalError) as error:
            log.warning("sweep failed", extra={"why": str(error)})

    def _served_s(self) -> float:
        """How long anybody could ask us since the last sweep: an absent broker ends nobody's login."""
        now, before = time.monotonic(), self._swept_at
        self._swept_at = now
        up_since = self._connection.up_since
        return 0.0 if up_since is None else now - max(before, up_since)

    def _cut_off(self, who: str, reason: str) -> None:
        """What the adapters ask for by a message, for those whose messages come here."""
        self._closing.spawn(self._cut_one(parse_principal(who), reason))

    async def _cut_one(self, principal: Principal, reason: str) -> None:
        cutting = self._registrar.cutting
        try:
            if await self._in_thread(lambda: cutting.cut_off(principal, reason, "keys")):
                await self._close_all_of(principal.name)
        except BrokerError as error:
            log.error("not cut off", extra={"sender": principal.name, "why": str(error)})

    async def _close_all_of(self, user: str) -> None:
        """Close what a principal has open that may open nothing any more: what is known, and what the management API
        comes to know of."""
        for _ in range(LOOKS):
            try:
                listed = [one.name for one in await asyncio.to_thread(self._realm.connections) if one.user == user]
                await self._close(list({*self._sessions.of(user), *listed}), FLOODED)
            except BrokerError as error:
                log.warning("connections not closed, again soon", extra={"sender": user, "why": str(error)})
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _close(self, names: list[str], reason: str = REPLACED) -> None:
        await asyncio.gather(*(self._close_one(name, reason) for name in names))

    async def _close_one(self, name: str, reason: str) -> None:
        """Close a connection; one that the management API does not know yet, for as long as it is open."""
        for _ in range(CLOSE_ATTEMPTS):
            if await asyncio.to_thread(self._realm.close_connection, name, reason):
                log.info("connection closed", extra={"connection": name, "why": reason})
                return
            if not self._sessions.is_open(name):
                return
            await asyncio.sleep(CLOSE_AGAIN_S)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


async def run(config: KeysConfig) -> None:
    """Ensure vhost, topology and principals, write their credentials, then answer until cancelled.

    Waits for a broker that is not there yet. Raises ConfigError, or BrokerError for a broker that cannot be used.
    """
    directory, administration = Path(config.directory), read_administrator(config)
    realm = BrokerRealm(administration, config.profile)
    store = EnrolmentStore(directory / "keys.sqlite")
    credentials = directory / "credentials"
    broker = administration.login("", "")
    registrar = Registrar(realm, store, credentials, broker, Quotas(vms_of_host=config.vms_of_host))
    try:
        await _prepare(realm, registrar, config)
        address = read_address(credentials / "keys.json")
        async with Connection(address, name="keys", wait_most_s=CENTRE_WAIT_MOST_S) as connection:
            log.info("serving", extra={"principals": len(config.principals)})
            await Service(connection, registrar, realm, lifetime_s=config.once_lifetime_s, sweep_s=config.sweep_s).run()
    finally:
        store.close()


async def _prepare(realm: BrokerRealm, registrar: Registrar, config: KeysConfig) -> None:
    """Only a broker that does not answer at all is waited for."""

    def work() -> None:
        realm.prepare()
        registrar.ensure(["keys", *config.principals])

    for wait_s in backoff(0.2, 5.0):
        try:
            return await asyncio.to_thread(work)
        except ManagementError as error:
            if error.status:
                raise
            log.warning("broker away, waiting", extra={"why": str(error)})
            await asyncio.sleep(wait_s)
    return None


def _cannot(message: Message, why: str) -> Failed:
    text = f"{why}; see the key manager's log"
    return Failed(call=message.id, code=ErrorCode.INTERNAL, message=text, hint="try again later")


def _keeps_queue(sender: str) -> bool:
    """Whether an answer may wait: consoles and one-time logins listen only while they are connected."""
    return kind_of(sender) not in (Kind.CONSOLE, Kind.ONCE)


def _route_back(delivery: Delivery, sender: str, message: Message) -> Route | None:
    """By what the broker vouches for; a one-time login has no queue, and names nothing but its direct reply-to. None
    for those that we may not write to: trying would close our connection."""
    if kind_of(sender) in (Kind.HOST, Kind.VM, Kind.CONSOLE):
        return reply("keys", sender, message.reply)
    reply_to = delivery.properties.reply_to or ""
    is_direct = kind_of(sender) is Kind.ONCE and reply_to.startswith(f"{DIRECT_REPLY_TO}.")
    return Route("", reply_to) if is_direct else None


def _info(headers: dict[str, Any]) -> ConnectionInfo:
    return ConnectionInfo(
        connected_at=int(headers.get("connected_at") or 0),
        name=str(headers.get("name") or ""),
        user=str(headers.get("user") or ""),
        label=str(headers.get("user_provided_name") or "")[:MAX_LABEL],
    )
