"""How an adapter takes messages in: many to a transaction; commit, then publish, then acknowledge.

What gathers while a transaction runs makes up the next one. A message that fails alone is
moved to the dead letters with its reason; a database that is away keeps everything waiting, unacknowledged, and one
that cannot take some message keeps that one back and takes the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from adapters.batch import MOST_MESSAGES, batch_size
from adapters.errors import LedgerUnavailable
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import Committed, LedgerWriter
from adapters.metrics import Metrics
from adapters.replies import Replies
from broker.admission import Admission
from broker.backoff import backoff
from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.inbound import Refusal, take_in
from schemas.codec import op_of
from schemas.envelope import Message, Reply
from schemas.ids import Kind

log = logging.getLogger(__name__)

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
#: Finds out what must be known of a message: (sender, message).
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


class Intake:
    """See the module. ``run`` until cancelled; ``on_delivery`` is the consumers' callback."""

    def __init__(
        self,
        connection: Carrier,
        writer: LedgerWriter,
        handlers: dict[type[Message], BatchHandler],
        metrics: Metrics,
        *,
        after: Callable[[Tx], object],
    ) -> None:
        """``after`` ends every durable transaction: the matching."""
        self._connection, self._writer, self._handlers, self._metrics = connection, writer, handlers, metrics
        self._after = after
        self._start = writer.background.spawn
        self._replies = Replies(connection, metrics)
        #: Move the message to the dead letters, and tell the sender, where it can be told.
        self.refuse = self._replies.refuse
        self.dead_letters = self._replies.dead_letters
        #: What each stranger may send here.
        self.admission = Admission(self.dead_letters, lambda: metrics.refused("flood"))
        self._waiting: list[Item] = []
        self._wake = asyncio.Event()
        #: Messages queued so far, and those of them that are written down or given up.
        self._queued = self._settled = 0
        self._some_settled = asyncio.Event()

    def on_delivery(self, delivery: Delivery, taken: Taken = lambda *_: False) -> None:
        """Queue a delivery whose sender the broker vouches for; move aside what cannot be read or is not taken.

        ``taken`` may deal with a message first: True says that it will ``add`` it, or has seen to it.
        """
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            self._start(self.refuse(delivery, letter.reason, letter.detail))
            return
        sender, message = letter.sender, letter.message
        handler = self._handlers.get(type(message))
        if handler is None or letter.kind not in handler.senders:
            reason = f"{op_of(message)} is not taken from {sender}"
            self._start(self.refuse(delivery, "not_taken", reason, sender, message))
            return
        if handler.prepare is not None:
            self._start(self._prepare(handler.prepare, sender, message, delivery))
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

    async def sweep(self) -> None:
        """Show the link, tell of what was dropped, publish again what nobody has ticked off. Raises LedgerError."""
        self._metrics.connected.set(1 if self._connection.is_up else 0)
        self._metrics.reconnects.set(self._connection.links)
        self.dead_letters.tell()
        await self._writer.publish_stale()

    async def _take(self, batch: list[Item]) -> None:
        light = [item for item in batch if self._handlers[type(item.message)].light]
        durable = [item for item in batch if not self._handlers[type(item.message)].light]
        for items, is_light in ((durable, False), (light, True)):
            if items:
                await self._commit(items, light=is_light)

    async def _commit(self, items: list[Item], *, light: bool) -> None:
        """Write a batch. When it fails, write each alone, so that one bad message holds up no other."""
        try:
            committed = await self._write_items(items, light=light)
        except LedgerUnavailable as error:
            await self._put_off(items, error, light=light)
            return
        except Exception as error:  # noqa: BLE001  whatever broke, it is found out message by message
            if len(items) == 1:
                self._give_up(items[0], error)
                return
            log.warning("batch failed, one by one", extra={"messages": len(items), "why": str(error)})
            for item in items:
                await self._commit([item], light=light)
            return
        self._start(self._finish(items, committed))

    async def _put_off(self, items: list[Item], error: Exception, *, light: bool) -> None:
        """The ledger is there, but not for these: keep each back that it cannot take, and let the others go on."""
        if len(items) > 1:
            for item in items:
                await self._commit([item], light=light)
            return
        log.warning("message put off", extra={"op": op_of(items[0].message), "why": str(error)})
        again = replace(items[0], is_again=True)
        asyncio.get_running_loop().call_later(AGAIN_S, self._queue, again)

    async def _write_items(self, items: list[Item], *, light: bool) -> Committed:
        """Write them in one transaction. Waits for a ledger that is away; raises LedgerUnavailable if it is there."""
        patience = PATIENCE if len(items) > 1 else 1
        for tries, wait_s in enumerate(backoff(0.2, 10.0), 1):
            try:
                return await self._writer.commit(partial(self._work, items=items, light=light), light=light)
            except LedgerUnavailable as error:
                log.error("ledger unavailable, waiting", extra={"why": str(error)})
                if tries >= patience and await self._writer.is_there():
                    raise
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")

    def _work(self, tx: Tx, *, items: list[Item], light: bool) -> list[tuple[Item, Reply]]:
        """One transaction's work, in the writer's thread: all messages of a kind at once, kinds in the table's order.

        Gives the answers.
        """
        answers: list[tuple[Item, Reply]] = []
        for message_type, handler in self._handlers.items():
            mine = [item for item in items if type(item.message) is message_type]
            if mine:
                given = handler.handle(tx, [(item.sender, item.content) for item in mine])
                answers += [(item, answer) for item, answer in zip(mine, given, strict=True) if answer is not None]
        if not light:
            self._after(tx)
        return answers

    async def _finish(self, items: list[Item], committed: Committed) -> None:
        """After the commit: publish what it caused and the answers, then acknowledge what caused it."""
        try:
            await self._writer.publish(committed)
            for item, answer in committed.result:
                self._replies.answer(item.sender, item.message, answer)
        except Exception:
            log.exception("committed and not told: the outbox has it, and answers are asked for again")
        for item in items:
            if item.delivery is not None:
                item.delivery.ack()

    def _give_up(self, item: Item, error: Exception) -> None:
        log.exception("message failed", exc_info=error, extra={"op": op_of(item.message), "sender": item.sender})
        if item.delivery is not None:
            text = f"{type(error).__name__}: {error}"
            self._start(self.refuse(item.delivery, "failed", text, item.sender, item.message))
