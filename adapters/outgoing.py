"""What leaves an adapter: messages of the outbox, answers that nobody stores, and dead letters.

It writes no ledger: what the broker has confirmed it keeps as *ticks*, which the next transaction takes along.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from adapters.ledger.transaction import OutboxRow
from adapters.metrics import Metrics
from broker.carrier import Carrier
from broker.dead_letters import Burials
from broker.delivery import Delivery
from broker.errors import NotDelivered, Unroutable
from broker.outbound import answer_of
from broker.routes import reply, sender_of
from schemas.codec import clip
from schemas.envelope import Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.ids import Kind, kind_of
from schemas.ledger import JobVerdict

log = logging.getLogger(__name__)

#: Kinds of principal that an adapter may write to; a one-time login listens to the key manager alone.
ANSWERED = frozenset({Kind.HOST, Kind.VM, Kind.SITE, Kind.CONSOLE})


def may_answer(principal: str) -> bool:
    """Say whether the broker lets an adapter write to a sender: an answer to any other would cost the link."""
    return kind_of(principal) in ANSWERED


class Outgoing:
    """See the module. Belongs to the adapter's loop."""

    def __init__(self, connection: Carrier, metrics: Metrics) -> None:
        self._connection, self._metrics = connection, metrics
        self._ticks: list[str] = []
        self.burials = Burials(connection)

    def take_ticks(self) -> list[str]:
        """Give the outbox messages that were confirmed since the last time, to be forgotten by a transaction."""
        ticks, self._ticks = self._ticks, []
        return ticks

    def put_back(self, ticks: Iterable[str]) -> None:
        """Take back ticks whose transaction did not happen."""
        self._ticks += ticks

    async def publish(self, rows: list[OutboxRow]) -> None:
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

    def answer(self, sender: str, message: Message, answer: Reply) -> None:
        """Send an answer that nobody stores: it is asked for again if it is lost."""
        route = reply(self._connection.user, sender, message.reply)
        self._connection.send(*route, answer_of(answer), message_id=answer.id, mandatory=False)

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
            self.answer(delivery.user_id, message or refusal, refusal)


def _refusal(routing_key: str, call: str, text: str) -> Reply:
    """Say no in the words that the sender waits for: a submission is answered by a verdict."""
    if routing_key.endswith(".submit"):
        return JobVerdict(call=call, accepted=False, job="", reasons=[text])
    return Failed(call=call, code=ErrorCode.BAD_REQUEST, message=text, hint="mend the message, then send it again")
