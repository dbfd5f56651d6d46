"""How an adapter takes messages in: many to a transaction; commit, then publish, then acknowledge.

One thread writes the ledger. What gathers while a transaction runs makes up the next one. A message that fails alone is
moved to the dead letters with its reason; a database that is away keeps everything waiting, unacknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from msgspec import Struct

from adapters.batch import MOST_MESSAGES, batch_size
from adapters.errors import LedgerUnavailable
from adapters.ledger import outbox
from adapters.ledger.engine import Ledger
from adapters.ledger.transaction import OutboxRow, Tx
from adapters.metrics import Metrics
from broker.backoff import backoff
from broker.connection import Connection, Delivery
from broker.dead_letters import Burials
from broker.errors import NotDelivered, Unroutable
from broker.routes import kind_of, reply, sender_of
from schemas.codec import clip, encode, fit, op_of
from schemas.envelope import Failed, Message, Reply
from schemas.errors import DecodeError, ErrorCode
from schemas.ledger import JobVerdict

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Age at which an unconfirmed message of the outbox is published again, by whoever sees it, ms.
STALE_MS = 10_000
#: How long to gather once messages come faster than transactions, seconds: a transaction's statements cost as much
#: for one message as for ten. One message at a time never waits.
GATHER_S = 0.008
#: Kinds of principal that an adapter may write to; a one-time login listens to the key manager alone.
ANSWERED = frozenset({"host", "vm", "site", "console"})
#: How long a batch may take before beats that came meanwhile count as held up, seconds.
SLOW_S = 15.0
#: An answer to a sender, or None where the outbox or silence is the answer.
Answers = Sequence[Reply | None]
#: Deals with all messages of one kind in a batch: (sender, message) each.
Room = Callable[[Tx, Sequence[tuple[str, Any]]], Answers]


#: Deals with a delivery by itself, and says whether it did: (delivery, sender, message).
Taken = Callable[[Delivery, str, Message], bool]


class Kind(Struct, frozen=True, kw_only=True):
    """How to deal with one kind of message."""

    room: Room
    #: Said again anyway (beats, inventories): its transaction need not wait for the disk.
    light: bool = False
    #: Kinds of principal that may send it.
    senders: frozenset[str]


def may_answer(principal: str) -> bool:
    """Say whether the broker lets an adapter write to a sender: an answer to any other would cost the link."""
    return kind_of(principal) in ANSWERED


def body_of(answer: Reply) -> bytes:
    """Render an answer; one that is longer than the wire allows becomes a failure that says so."""
    return encode(fit(answer))


class Item(Struct, frozen=True):
    """A message on its way through: its own delivery, or None for the adapter's own work."""

    sender: str
    message: Message
    delivery: Delivery | None


class _Written(Struct):
    answers: list[tuple[Item, Reply]]
    outgoing: list[OutboxRow]
    counts: dict[str, int]
    observations: list[tuple[str, float]]


class Intake:
    """See the module. ``run`` until cancelled; ``on_delivery`` is the consumers' callback."""

    def __init__(
        self,
        connection: Connection,
        ledger: Ledger,
        kinds: dict[type[Message], Kind],
        metrics: Metrics,
        *,
        after: Callable[[Tx], object],
        slow_s: float = SLOW_S,
    ) -> None:
        """``after`` ends every durable transaction: the matching. A batch longer than ``slow_s`` held beats up."""
        self._connection, self._ledger, self._kinds, self._metrics = connection, ledger, kinds, metrics
        self._after, self._slow_s = after, slow_s
        self.burials = Burials(connection)
        self._waiting: list[Item] = []
        self._ticks: list[str] = []
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._tasks: set[asyncio.Task[None]] = set()
        #: Monotonic times: since when nothing has held messages up, and since when a batch is being written.
        self._clear_since: float | None = time.monotonic()
        self._busy_since: float | None = None

    @property
    def clear_since(self) -> float | None:
        """Monotonic time since when no message has waited for longer than one quick batch; None while any does.

        Any thread may ask.
        """
        busy = self._busy_since
        return None if busy is not None and time.monotonic() - busy > self._slow_s else self._clear_since

    def on_delivery(self, delivery: Delivery, taken: Taken = lambda *_: False) -> None:
        """Queue a delivery whose sender the broker vouches for; move aside what cannot be read or is not taken.

        ``taken`` may deal with a message first: True says that it will ``add`` it, or has seen to it.
        """
        sender = sender_of(delivery.routing_key, delivery.user_id)
        if sender is None:
            self._spawn(self.refuse(delivery, "foreign_key", "user_id is not the first word of the routing key"))
            return
        try:
            message = delivery.read()
        except DecodeError as error:
            self._spawn(self.refuse(delivery, "undecodable", error.reason))
            return
        kind = self._kinds.get(type(message))
        if kind is None or sender.partition("-")[0] not in kind.senders:
            reason = f"{op_of(message)} is not taken from {sender}"
            self._spawn(self.refuse(delivery, "not_taken", reason, sender, message))
            return
        if not taken(delivery, sender, message):
            self.add(sender, message, delivery)

    def add(self, sender: str, message: Message, delivery: Delivery | None) -> None:
        """Queue a message that was already read."""
        self._waiting.append(Item(sender, message, delivery))
        self._wake.set()

    async def run(self) -> None:
        """Take batches until cancelled."""
        taken = 0
        while True:
            await self._wake.wait()
            if 1 < taken < MOST_MESSAGES:
                await asyncio.sleep(GATHER_S)
            taken = len(self._waiting)
            following = batch_size(item.message for item in self._waiting)
            batch, self._waiting = self._waiting[:following], self._waiting[following:]
            self._note_backlog()
            if batch:
                self._busy_since = time.monotonic()
                await self._take(batch)
                self._note_taken(time.monotonic() - self._busy_since)

    async def write(self, work: Callable[[Tx], Any]) -> Any:
        """Run ``work`` of the adapter's own in the writer thread, and publish what it put out. Raises LedgerError."""
        return await self._publish_after(work, light=False)

    async def read(self, work: Callable[[Tx], Any]) -> Any:
        """Run ``work`` on a reading connection. Raises LedgerError."""
        return await asyncio.to_thread(self._ledger.read, work)

    def read_here(self, work: Callable[[Tx], T]) -> T:
        """As ``read``, in the calling thread, which is not the loop's."""
        return self._ledger.read(work)

    async def sweep(self) -> None:
        """Show the link, publish again what nobody has ticked off, tick off what was confirmed. Raises LedgerError."""
        self._metrics.connected.set(1 if self._connection.is_up else 0)
        self._metrics.reconnects.set(self._connection.links)
        self.burials.tell()
        await self._publish_stale()

    async def _publish_stale(self) -> None:
        ticks, self._ticks = self._ticks, []

        def work(tx: Tx) -> list[OutboxRow]:
            outbox.tick(tx, ticks)
            return outbox.stale(tx, STALE_MS)

        self._start_publishing(await self._in_thread(lambda: self._ledger.write_lightly(work)))

    async def close(self) -> None:
        """Let what is being published be confirmed, tick it off and stop."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ticks, self._ticks = self._ticks, []
        if ticks:
            await self._in_thread(lambda: self._ledger.write_lightly(lambda tx: outbox.tick(tx, ticks)))
        self._thread.shutdown()

    def _note_backlog(self) -> None:
        if self._waiting:
            self._clear_since = None
        else:
            self._wake.clear()
            self._clear_since = self._clear_since or time.monotonic()

    def _note_taken(self, took_s: float) -> None:
        """After a batch: one that was slow, or found no ledger, held up whatever came meanwhile."""
        if took_s > self._slow_s:
            self._clear_since = None
        if not self._waiting:
            self._clear_since = self._clear_since or time.monotonic()
        self._busy_since = None

    async def _take(self, batch: list[Item]) -> None:
        light = [item for item in batch if self._kinds[type(item.message)].light]
        durable = [item for item in batch if not self._kinds[type(item.message)].light]
        for items, is_light in ((durable, False), (light, True)):
            if items:
                await self._commit(items, light=is_light)

    async def _commit(self, items: list[Item], *, light: bool) -> None:
        """Write a batch. When it fails, write each alone, so that one bad message holds up no other."""
        try:
            written = await self._write_items(items, light=light)
        except Exception as error:  # noqa: BLE001  whatever broke, it is found out message by message
            if len(items) == 1:
                self._give_up(items[0], error)
                return
            log.warning("batch failed, one by one", extra={"messages": len(items), "why": str(error)})
            for item in items:
                await self._commit([item], light=light)
            return
        self._spawn(self._finish(items, written))

    async def _write_items(self, items: list[Item], *, light: bool) -> _Written:
        ticks, self._ticks = self._ticks, []
        write = self._ledger.write_lightly if light else self._ledger.write
        for wait_s in backoff(0.2, 10.0):
            try:
                written: _Written = await self._in_thread(lambda: write(lambda tx: self._work(tx, items, ticks, light)))
                return written
            except LedgerUnavailable as error:
                self._clear_since = None
                log.error("ledger unavailable, waiting", extra={"why": str(error)})
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")

    def _work(self, tx: Tx, items: list[Item], ticks: list[str], light: bool) -> _Written:
        """One transaction's work, in the writer thread: all messages of a kind at once, kinds in the table's order."""
        outbox.tick(tx, ticks)
        answers: list[tuple[Item, Reply]] = []
        for message_type, kind in self._kinds.items():
            mine = [item for item in items if type(item.message) is message_type]
            if mine:
                given = kind.room(tx, [(item.sender, item.message) for item in mine])
                answers += [(item, answer) for item, answer in zip(mine, given, strict=True) if answer is not None]
        if not light:
            self._after(tx)
        return _Written(answers, outbox.fresh(tx), dict(tx.counts), list(tx.observations))

    async def _publish_after(self, work: Callable[[Tx], Any], *, light: bool) -> Any:
        write = self._ledger.write_lightly if light else self._ledger.write

        def whole(tx: Tx) -> tuple[Any, _Written]:
            result = work(tx)
            return result, _Written([], outbox.fresh(tx), dict(tx.counts), list(tx.observations))

        result, written = await self._in_thread(lambda: write(whole))
        self._spawn(self._finish([], written))
        return result

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except LedgerUnavailable:
            self._metrics.usable.set(0)
            raise
        self._metrics.usable.set(1)
        return result

    async def _finish(self, items: list[Item], written: _Written) -> None:
        """After the commit: publish what it caused and the answers, then acknowledge what caused it."""
        try:
            self._metrics.note(written.counts, written.observations)
            await self._publish(written.outgoing)
            for item, answer in written.answers:
                self._answer(item.sender, item.message, answer)
        except Exception:
            log.exception("committed and not told: the outbox has it, and answers are asked for again")
        for item in items:
            if item.delivery is not None:
                item.delivery.ack()

    def _start_publishing(self, rows: list[OutboxRow]) -> None:
        if rows:
            self._metrics.outbox_again.inc(len(rows))
            self._spawn(self._publish(rows))

    async def _publish(self, rows: list[OutboxRow]) -> None:
        """Publish outbox rows at once and note each confirm; what is not confirmed stays in the outbox."""
        if not rows:
            return
        began = time.monotonic()
        sends = [self._connection.send(r.exchange, r.routing_key, r.body, message_id=r.message_id) for r in rows]
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        self._metrics.confirm_seconds.observe(time.monotonic() - began)
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is None or isinstance(outcome, Unroutable):
                self._ticks.append(row.message_id)
            if isinstance(outcome, NotDelivered):
                self._metrics.not_delivered(type(outcome).__name__)
                log.info("not delivered", extra={"key": row.routing_key, "why": str(outcome)})

    def _answer(self, sender: str, message: Message, answer: Reply) -> None:
        """Send an answer that nobody stores: it is asked for again if it is lost."""
        route = reply(self._connection.user, sender, message.reply)
        self._connection.send(*route, body_of(answer), message_id=answer.id, mandatory=False)

    def _give_up(self, item: Item, error: Exception) -> None:
        log.exception("message failed", exc_info=error, extra={"op": op_of(item.message), "sender": item.sender})
        if item.delivery is not None:
            text = f"{type(error).__name__}: {error}"
            self._spawn(self.refuse(item.delivery, "failed", text, item.sender, item.message))

    async def refuse(
        self, delivery: Delivery, reason: str, text: str, sender: str = "", message: Message | None = None
    ) -> None:
        """Move the message to the dead letters, and tell the sender, where it can be told."""
        self._metrics.refused(reason)
        text = clip(text)
        if not await self.burials.bury(delivery, reason, text):
            return  # a flood is not answered either
        call = message.id if message is not None else delivery.properties.message_id
        known = sender or sender_of(delivery.routing_key, delivery.user_id)
        if call and known and may_answer(known):
            refusal = _refusal(delivery.routing_key, call[:64], text)
            self._answer(delivery.user_id, message or refusal, refusal)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("intake: a step failed", exc_info=task.exception())


def _refusal(routing_key: str, call: str, text: str) -> Reply:
    """Say no in the words that the sender waits for: a submission is answered by a verdict."""
    if routing_key.endswith(".submit"):
        return JobVerdict(call=call, accepted=False, job="", reasons=[text])
    return Failed(call=call, code=ErrorCode.BAD_REQUEST, message=text, hint="mend the message, then send it again")
