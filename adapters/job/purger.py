"""Deletes what the ledger need not keep any longer, from time to time, a portion a transaction.

Several adapters may do it at once: each looks again at what it deletes. The ledger away means later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from adapters.config import JobAdapterConfig
from adapters.errors import LedgerError
from adapters.ledger import retention
from adapters.ledger.retention import DueRows, Keep
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter

log = logging.getLogger(__name__)

#: Wait after the start, seconds: whatever waited for the adapter goes first.
FIRST_AFTER_S = 30.0
#: Pause between two portions, seconds: a day's work of deleting is nobody else's hurry.
BETWEEN_S = 0.05


class Purger:
    """See the module."""

    def __init__(self, writer: LedgerWriter, keep: Keep, every_s: float) -> None:
        self._writer, self._keep, self._every_s = writer, keep, every_s

    async def run(self) -> None:
        """Delete what has outlived its time, every so often, until cancelled."""
        await asyncio.sleep(min(FIRST_AFTER_S, self._every_s))
        while True:
            try:
                await self.round()
            except LedgerError as error:
                log.error("nothing deleted, again later", extra={"why": str(error)})
            await asyncio.sleep(self._every_s)

    async def round(self) -> dict[str, int]:
        """Delete all that has outlived its time now; gives how much of each kind. Raises LedgerError."""
        for kind in retention.marks():
            await self._go_through(kind, kind.remove)
        gone = {kind.what: await self._go_through(kind, partial(_remove, kind)) for kind in retention.kinds(self._keep)}
        if any(gone.values()):
            log.info("deleted what was kept long enough", extra={kind: count for kind, count in gone.items() if count})
        return gone

    async def _go_through(self, kind: DueRows, act: Callable[[Tx, Sequence[Any]], int]) -> int:
        """Find and deal with a portion at a time, until nothing is left; gives of how many."""
        total = 0
        while found := await self._writer.read(kind.find):
            done = await self._writer.write(partial(_act_on, found, act))
            total += done
            if not done:
                break  # others hold or need what is left of them
            await asyncio.sleep(BETWEEN_S)
        return total


def keep_of(config: JobAdapterConfig) -> Keep:
    """Read from the settings how long things are kept."""
    return Keep(
        jobs_s=config.keep_jobs_s,
        held_s=config.keep_held_s,
        vms_s=config.keep_vms_s,
        hosts_s=config.keep_hosts_s,
        events_s=config.keep_events_s,
    )


def _act_on(found: Sequence[Any], act: Callable[[Tx, Sequence[Any]], int], tx: Tx) -> int:
    return act(tx, found)


def _remove(kind: DueRows, tx: Tx, found: Sequence[Any]) -> int:
    removed = kind.remove(tx, found)
    if kind.what != "jobs":  # counted where they are deleted, by an order too
        tx.counts[f"deleted_{kind.what}"] += removed
    return removed
