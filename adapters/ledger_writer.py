"""The one thread in which an adapter writes the ledger, and what follows a commit: its messages are published.

Every transaction takes along the ticks of what the broker has confirmed meanwhile. What is not ticked off is published
again by a later ``publish_stale``, of this adapter or another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from adapters.deferred_work import DeferredWork
from adapters.errors import LedgerError, LedgerUnavailable
from adapters.ledger import outbox
from adapters.ledger.deferred import Deferred
from adapters.ledger.engine import Ledger
from adapters.ledger.transaction import OutboxRow, Tx
from adapters.metrics import Metrics
from adapters.outbox_publisher import OutboxPublisher
from broker.carrier import Carrier
from broker.daemon.tasks import OwnedTasks

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Age at which an unconfirmed message of the outbox is published again, by whoever sees it, ms.
STALE_MS = 10_000


class Committed(Struct, frozen=True):
    """What a transaction gave, and what it leaves to ``LedgerWriter.publish``."""

    result: Any
    outgoing: list[OutboxRow]
    counts: dict[str, int]
    observations: list[tuple[str, float]]
    deferred: Deferred


class LedgerWriter:
    """See the module. Belongs to the adapter's loop."""

    def __init__(self, connection: Carrier, ledger: Ledger, metrics: Metrics) -> None:
        self._ledger, self._metrics = ledger, metrics
        self._publisher = OutboxPublisher(connection, metrics)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        #: What has been started and must end before ``close`` returns.
        self.background = OwnedTasks("ledger writer")
        self._deferred_work = DeferredWork(self.write, self.background.spawn)

    async def write(self, work: Callable[[Tx], Any], *, light: bool = False) -> Any:
        """Run ``work`` in a transaction, and have published what it put out; gives its result. Raises LedgerError."""
        committed = await self.commit(work, light=light)
        self.background.spawn(self.publish(committed))
        return committed.result

    async def commit(self, work: Callable[[Tx], Any], *, light: bool = False) -> Committed:
        """Run ``work`` in a transaction; the caller publishes. Nothing happened if it raises, LedgerError or other."""
        write = self._ledger.write_lightly if light else self._ledger.write
        ticks = self._publisher.take_ticks()
        try:
            committed: Committed = await self._in_thread(partial(write, partial(_ticked, ticks, work)))
        except BaseException:
            self._publisher.put_back(ticks)
            raise
        return committed

    async def publish(self, committed: Committed) -> None:
        """Publish what a commit caused, count it, and see to what it has left. Raises nothing of the broker's."""
        self._deferred_work.take(committed.deferred)
        self._metrics.note(committed.counts, committed.observations)
        await self._publisher.publish(committed.outgoing)

    async def publish_stale(self) -> None:
        """Publish again what nobody has ticked off. Raises LedgerError."""
        stale = (await self.commit(lambda tx: outbox.stale(tx, STALE_MS), light=True)).result
        if stale:
            self._metrics.outbox_again.inc(len(stale))
            self.background.spawn(self._publisher.publish(stale))

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run ``work`` on a reading connection. Raises LedgerError."""
        return await asyncio.to_thread(self._ledger.read, work)

    def read_here(self, work: Callable[[Tx], T]) -> T:
        """As ``read``, in the calling thread, which is not the loop's."""
        return self._ledger.read(work)

    async def is_there(self) -> bool:
        """Say whether the ledger takes anything at all; an empty transaction is taken by a full disk too."""
        try:
            await self._in_thread(partial(self._ledger.write, outbox.probe))
        except LedgerError:
            return False
        return True

    async def close(self) -> None:
        """Let what is being published be confirmed, tick it off and stop."""
        await self.background.finish()
        ticks = self._publisher.take_ticks()
        try:
            if ticks:
                await self._in_thread(partial(self._ledger.write_lightly, lambda tx: outbox.tick(tx, ticks)))
        except LedgerError as error:
            log.warning("confirmed and not ticked off, it is sent once more", extra={"why": str(error)})
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except LedgerUnavailable:
            self._metrics.usable.set(0)
            raise
        self._metrics.usable.set(1)
        return result


def _ticked(ticks: list[str], work: Callable[[Tx], Any], tx: Tx) -> Committed:
    """One transaction, in the writer's thread. What it put out becomes rows at its end: the list is filled by then."""
    outbox.tick(tx, ticks)
    result = work(tx)
    return Committed(result, outbox.fresh(tx), dict(tx.counts), list(tx.observations), tx.deferred)
