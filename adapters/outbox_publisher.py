"""Publishes rows of the outbox and remembers which the broker has confirmed; reads and writes no ledger.

What is confirmed is kept as *ticks*, which the next transaction takes along; what is not stays in the outbox.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

from adapters.ledger.transaction import OutboxRow
from adapters.metrics import Metrics
from broker.carrier import Carrier
from broker.errors import NotDelivered, Unroutable

log = logging.getLogger(__name__)


class OutboxPublisher:
    """See the module. Belongs to the adapter's loop."""

    def __init__(self, connection: Carrier, metrics: Metrics) -> None:
        self._connection, self._metrics = connection, metrics
        self._ticks: list[str] = []

    def take_ticks(self) -> list[str]:
        """Give the outbox messages that were confirmed since the last time, to be forgotten by a transaction."""
        ticks, self._ticks = self._ticks, []
        return ticks

    def put_back(self, ticks: Iterable[str]) -> None:
        """Take back ticks whose transaction did not happen."""
        self._ticks += ticks

    async def publish(self, rows: Sequence[OutboxRow]) -> None:
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
