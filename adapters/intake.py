"""How an adapter takes messages in: many to a transaction; commit, then publish, then acknowledge.

One thread writes the ledger. What gathers while a transaction runs makes up the next one. A message that fails alone is
moved to the dead letters with its reason; a database that is away keeps everything waiting, unacknowledged, and one
that cannot take some message keeps that one back and takes the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from adapters.batch import MOST_MESSAGES, batch_size
from adapters.errors import LedgerError, LedgerUnavailable
from adapters.ledger import outbox
from adapters.ledger.engine import Ledger
from adapters.ledger.rest import Rest
from adapters.ledger.transaction import OutboxRow, Tx
from adapters.metrics import Metrics
from adapters.outgoing import Outgoing
from adapters.remainder import Remainder
from broker.admission import Admission
from broker.backoff import backoff
from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.inbound import Refusal, take_in
from schemas.codec import op_of
from schemas.envelope import Message, Reply
from schemas.ids import Kind

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Age at which an unconfirmed message of the outbox is published again, by whoever sees it, ms.
STALE_MS = 10_000
#: How long to gather once messages come faster than transactions, seconds: a transaction's statements cost as much
#: for one message as for ten. One message at a time never waits.
GATHER_S = 0.008
#: Tries of a batch that the ledger cannot take before its messages are tried one by one, if it can take others.
PATIENCE = 3
#: After how long a message is tried again that the ledger cannot take though it can take others, seconds.
AGAIN_S = 5.0
#: An answer to a sender, or None where the outbox or silence is the answer.
Answers = Sequence[Reply | None]
#: Deals with all messages of one kind in a batch: (sender, message) each.
Handle = Callable[[Tx, Sequence[tuple[str, Any]]], Answers]


#: Deals with a delivery by itself, and says whether it did: (delivery, sender, message).
Taken = Callable[[Delivery, str, Message], bool]


Prepare = Callable[[str, Any], Awaitable[Any]]


class BatchHandler(Struct, frozen=True, kw_only=True):
    """How to deal with all messages of one kind that a batch holds."""

    handle: Handle
    #: What must be known of a message before any transaction, since a store or the sender's size decides how long it
    #: takes; ``handle`` is given what comes of it in place of the message.
    prepare: Prepare | None = None
    #: Said again anyway (beats, inventories): its transaction need not wait for the disk.
    light: bool = False
    #: Who may send it.
    senders: frozenset[Kind]


class Item(Struct, frozen=True):
    """A message on its way through: its own delivery, or None for the adapter's own work."""

    sender: str
    message: Message
    delivery: Delivery | None
    #: What ``handle`` is given: the message, or what was prepared of it.
    content: Any
    #: It has been tried before, and counted.
    is_again: bool = False


class _Written(Struct):
    answers: list[tuple[Item, Reply]]
    outgoing: list[OutboxRow]
    counts: dict[str, int]
    observations: list[tuple[str, float]]
    rest: Rest


class Intake:
    """See the module. ``run`` until cancelled; ``on_delivery`` is the consumers' callback."""

    def __init__(
        self,
        connection: Carrier,
        ledger: Ledger,
        handlers: dict[type[Message], BatchHandler],
        metrics: Metrics,
        *,
        after: Callable[[Tx], object],
    ) -> None:
        """``after`` ends every durable transaction: the matching."""
        self._connection, self._ledger, self._handlers, self._metrics = connection, ledger, handlers, metrics
        self._after = after
        self._waiting: list[Item] = []
        self._outgoing = Outgoing(connection, metrics)
        #: Move the message to the dead letters, and tell the sender, where it can be told.
        self.refuse = self._outgoing.refuse
        self.burials = self._outgoing.burials
        #: What each stranger may send here.
        self.admission = Admission(self.burials, lambda: metrics.refused("flood"))
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._tasks: set[asyncio.Task[None]] = set()
        self._remainder = Remainder(self.write, self._spawn)
        #: Messages queued so far, and those of them that are written down or given up.
        self._queued = self._settled = 0
        self._some_settled = asyncio.Event()

    def on_delivery(self, delivery: Delivery, taken: Taken = lambda *_: False) -> None:
        """Queue a delivery whose sender the broker vouches for; move aside what cannot be read or is not taken.

        ``taken`` may deal with a message first: True says that it will ``add`` it, or has seen to it.
        """
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            self._spawn(self.refuse(delivery, letter.reason, letter.detail))
            return
        sender, message = letter.sender, letter.message
        handler = self._handlers.get(type(message))
        if handler is None or letter.kind not in handler.senders:
            reason = f"{op_of(message)} is not taken from {sender}"
            self._spawn(self.refuse(delivery, "not_taken", reason, sender, message))
            return
        if handler.prepare is not None:
            self._spawn(self._prepare(handler.prepare, sender, message, delivery))
        elif not taken(delivery, sender, message):
            self.add(sender, message, delivery)

    async def _prepare(self, prepare: Prepare, sender: str, message: Message, delivery: Delivery) -> None:
        try:
            content = await prepare(sender, message)
        except Exception as error:  # noqa: BLE001  whatever is wrong with it is its own
            self._give_up(Item(sender, message, delivery, message), error)
            return
        self._queue(Item(sender, message, delivery, content))

    def add(self, sender: str, message: Message, delivery: Delivery | None) -> None:
        """Queue a message that was already read."""
        self._queue(Item(sender, message, delivery, message))

    def _queue(self, item: Item) -> None:
        self._waiting.append(item)
        self._queued += not item.is_again
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
            if not self._waiting:
                self._wake.clear()
            if batch:
                await self._take(batch)
                self._settled += sum(not item.is_again for item in batch)
                self._some_settled.set()

    async def emptied(self) -> None:
        """Wait until whatever waits now has been tried: it is written down, given up, or put off."""
        goal = self._queued
        while self._settled < goal:
            self._some_settled.clear()
            await self._some_settled.wait()

    async def write(self, work: Callable[[Tx], Any], *, light: bool = False) -> Any:
        """Run ``work`` of the adapter's own in the writer thread, and publish what it put out. Raises LedgerError."""
        return await self._publish_after(work, light=light)

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
        ticks = self._outgoing.take_ticks()

        def work(tx: Tx) -> list[OutboxRow]:
            outbox.tick(tx, ticks)
            return outbox.stale(tx, STALE_MS)

        self._start_publishing(await self._in_thread(lambda: self._ledger.write_lightly(work)))

    async def close(self) -> None:
        """Let what is being published be confirmed, tick it off and stop."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ticks = self._outgoing.take_ticks()
        try:
            if ticks:
                await self._in_thread(lambda: self._ledger.write_lightly(lambda tx: outbox.tick(tx, ticks)))
        except LedgerError as error:
            log.warning("confirmed and not ticked off, it is sent once more", extra={"why": str(error)})
        self._thread.shutdown()

    async def _take(self, batch: list[Item]) -> None:
        light = [item for item in batch if self._handlers[type(item.message)].light]
        durable = [item for item in batch if not self._handlers[type(item.message)].light]
        for items, is_light in ((durable, False), (light, True)):
            if items:
                await self._commit(items, light=is_light)

    async def _commit(self, items: list[Item], *, light: bool) -> None:
        """Write a batch. When it fails, write each alone, so that one bad message holds up no other."""
        try:
            written = await self._write_items(items, light=light)
        except LedgerUnavailable as error:
            await self._part(items, error, light=light)
            return
        except Exception as error:  # noqa: BLE001  whatever broke, it is found out message by message
            if len(items) == 1:
                self._give_up(items[0], error)
                return
            log.warning("batch failed, one by one", extra={"messages": len(items), "why": str(error)})
            for item in items:
                await self._commit([item], light=light)
            return
        self._spawn(self._finish(items, written))

    async def _part(self, items: list[Item], error: Exception, *, light: bool) -> None:
        """The ledger is there, but not for these: keep each back that it cannot take, and let the others go on."""
        if len(items) > 1:
            for item in items:
                await self._commit([item], light=light)
            return
        log.warning("message put off", extra={"op": op_of(items[0].message), "why": str(error)})
        again = replace(items[0], is_again=True)
        asyncio.get_running_loop().call_later(AGAIN_S, self._queue, again)

    async def _is_there(self) -> bool:
        """Whether the ledger takes anything at all; an empty transaction is taken by a full disk too."""
        try:
            await self._in_thread(lambda: self._ledger.write(outbox.probe))
        except LedgerError:
            return False
        return True

    async def _write_items(self, items: list[Item], *, light: bool) -> _Written:
        """Write them in one transaction. Waits for a ledger that is away; raises LedgerUnavailable if it is there."""
        ticks = self._outgoing.take_ticks()
        write = self._ledger.write_lightly if light else self._ledger.write
        patience = PATIENCE if len(items) > 1 else 1
        for tries, wait_s in enumerate(backoff(0.2, 10.0), 1):
            try:
                written: _Written = await self._in_thread(lambda: write(lambda tx: self._work(tx, items, ticks, light)))
                return written
            except LedgerUnavailable as error:
                log.error("ledger unavailable, waiting", extra={"why": str(error)})
                if tries >= patience and await self._is_there():
                    self._outgoing.put_back(ticks)
                    raise
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")

    def _work(self, tx: Tx, items: list[Item], ticks: list[str], light: bool) -> _Written:
        """One transaction's work, in the writer thread: all messages of a kind at once, kinds in the table's order."""
        outbox.tick(tx, ticks)
        answers: list[tuple[Item, Reply]] = []
        for message_type, handler in self._handlers.items():
            mine = [item for item in items if type(item.message) is message_type]
            if mine:
                given = handler.handle(tx, [(item.sender, item.content) for item in mine])
                answers += [(item, answer) for item, answer in zip(mine, given, strict=True) if answer is not None]
        if not light:
            self._after(tx)
        return _Written(answers, outbox.fresh(tx), dict(tx.counts), list(tx.observations), tx.rest)

    async def _publish_after(self, work: Callable[[Tx], Any], *, light: bool) -> Any:
        write = self._ledger.write_lightly if light else self._ledger.write

        def whole(tx: Tx) -> tuple[Any, _Written]:
            result = work(tx)
            return result, _Written([], outbox.fresh(tx), dict(tx.counts), list(tx.observations), tx.rest)

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
            self._remainder.take(written.rest)
            self._metrics.note(written.counts, written.observations)
            await self._outgoing.publish(written.outgoing)
            for item, answer in written.answers:
                self._outgoing.answer(item.sender, item.message, answer)
        except Exception:
            log.exception("committed and not told: the outbox has it, and answers are asked for again")
        for item in items:
            if item.delivery is not None:
                item.delivery.ack()

    def _start_publishing(self, rows: list[OutboxRow]) -> None:
        if rows:
            self._metrics.outbox_again.inc(len(rows))
            self._spawn(self._outgoing.publish(rows))

    def _give_up(self, item: Item, error: Exception) -> None:
        log.exception("message failed", exc_info=error, extra={"op": op_of(item.message), "sender": item.sender})
        if item.delivery is not None:
            text = f"{type(error).__name__}: {error}"
            self._spawn(self.refuse(item.delivery, "failed", text, item.sender, item.message))

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("intake: a step failed", exc_info=task.exception())
