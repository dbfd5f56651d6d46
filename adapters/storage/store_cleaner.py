"""Clears the store: outputs of deleted jobs soon, what no row of the ledger points to from time to time.

The store is gone through in batches, each judged on a reading connection; nothing of it happens inside a transaction
that writes. Several adapters may do it at once. A store that is another ledger's is left alone and told of.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TypeVar

from msgspec import Struct

from adapters.config import StorageAdapterConfig
from adapters.errors import AdapterError
from adapters.ledger import claims
from adapters.ledger.deletion import delete_jobs
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.storage import fairness
from adapters.storage.contract import StoreContents, StoredAttempt
from schemas.ids import JobRef

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How often the outputs of deleted jobs are removed and the store's room is measured, seconds.
REMOVE_S = 10.0
#: Files or attempts that are judged at once.
BATCH = 200


class StoreBounds(Struct, frozen=True, kw_only=True):
    """What the store may keep."""

    #: Bytes of all outputs; 0 = no limit.
    outputs_bytes: int = 0
    #: Age at which what nobody needs goes, seconds.
    unneeded_s: float = 86400.0
    #: How often the store is gone through, seconds.
    every_s: float = 3600.0


def bounds_of(config: StorageAdapterConfig) -> StoreBounds:
    """Read the bounds from the settings."""
    return StoreBounds(
        outputs_bytes=config.keep_outputs_mib << 20, unneeded_s=config.keep_unneeded_s, every_s=config.collect_s
    )


class StoreCleaner:
    """See the module."""

    def __init__(self, contents: StoreContents, writer: LedgerWriter, bounds: StoreBounds, metrics: Metrics) -> None:
        self._contents, self._writer, self._bounds, self._metrics = contents, writer, bounds, metrics

    async def run(self) -> None:
        """Clear until cancelled; what cannot be done now is done later."""
        due = time.monotonic() + min(self._bounds.every_s, REMOVE_S)
        while True:
            await asyncio.sleep(min(REMOVE_S, self._bounds.every_s))
            try:
                await self._measure()
                await self.remove_deleted()
                if time.monotonic() >= due:
                    due = time.monotonic() + self._bounds.every_s
                    await self.collect()
            except AdapterError as error:
                log.error("store not cleared, again later", extra={"why": str(error)})

    async def remove_deleted(self) -> int:
        """Remove the outputs of deleted jobs; gives of how many. Raises LedgerError, StoreError."""
        total = 0
        while found := await self._writer.read(lambda tx: claims.removals(tx, BATCH)):
            for one in found:
                await asyncio.to_thread(self._contents.remove_attempts, one.ref, one.attempt)
            await self._writer.write(partial(claims.removed, done=found))
            total += len(found)
        self._metrics.gone("outputs", total)
        return total

    async def collect(self) -> None:
        """Go through the whole store once. Raises LedgerError, StoreError."""
        if not await self._is_ours():
            log.error("the store is another ledger's: nothing is cleared", extra={"store": self._contents.url})
            return
        await asyncio.to_thread(self._contents.put_back)
        stored = await self._collect_outputs()
        self._metrics.stored_outputs.set(stored.total())
        await self._collect_inputs()
        if self._bounds.outputs_bytes:
            await self._make_room(stored, self._bounds.outputs_bytes)

    async def _is_ours(self) -> bool:
        """Say whether the store is the ledger's: marked as its own, or nobody's and not full of what it never knew."""
        ledger = str(await self._writer.read(claims.identity))
        owner = await asyncio.to_thread(self._contents.owner)
        if owner:
            return owner == ledger
        some = await asyncio.to_thread(_some, self._contents.stored_attempts())
        stored = [(one.job, one.attempt) for one in some]
        unknown = await self._writer.read(lambda tx: claims.unclaimed_attempts(tx, stored, 0))
        if stored and len(unknown) == len(stored):
            return False
        await asyncio.to_thread(self._contents.own, ledger)
        return True

    async def _measure(self) -> None:
        room = await asyncio.to_thread(self._contents.room)
        if room is not None:
            self._metrics.store_size.set(room[0])
            self._metrics.store_free.set(room[1])

    async def _collect_outputs(self) -> Counter[str]:
        """Remove attempts that no row claims; gives the bytes of the others, by the owner of their job."""
        stored: Counter[str] = Counter()
        walk = self._contents.stored_attempts()
        while batch := await asyncio.to_thread(_some, walk):
            for one in batch:
                stored[_owner(one.job)] += one.size
            old = {(one.job, one.attempt): one for one in batch if one.age_s > self._bounds.unneeded_s}
            for gone in await self._unclaimed(old):
                await asyncio.to_thread(self._contents.remove_attempt, gone.job, gone.attempt)
                stored[_owner(gone.job)] -= gone.size
                self._metrics.gone("outputs", 1)
                log.info("output removed that nobody needs", extra={"job": gone.job, "attempt": gone.attempt})
        return stored

    async def _unclaimed(self, old: dict[tuple[str, int], StoredAttempt]) -> list[StoredAttempt]:
        keep_ms = int(self._bounds.unneeded_s * 1000)
        found = await self._writer.read(lambda tx: claims.unclaimed_attempts(tx, list(old), tx.lease_now_ms - keep_ms))
        return [old[one] for one in found]

    async def _collect_inputs(self) -> None:
        walk = self._contents.old_inputs(self._bounds.unneeded_s)
        while batch := await asyncio.to_thread(_some, walk):
            for digest in await self._writer.read(partial(claims.unclaimed_inputs, digests=batch)):
                went = await asyncio.to_thread(
                    self._contents.remove_input, digest, self._bounds.unneeded_s, self._is_needed
                )
                self._metrics.gone("inputs", int(went))

    def _is_needed(self, digest: str) -> bool:
        return not self._writer.read_here(lambda tx: claims.unclaimed_inputs(tx, [digest]))

    async def _make_room(self, stored: Counter[str], most: int) -> None:
        """Delete jobs until the outputs are within their bounds: those of who has the most, the first ended first.

        Nobody with an even share or less gives for another, whose jobs run, or are held.
        """
        even = most // max(1, len(stored))
        while too_many := fairness.to_give(stored, most):
            for owner, size in too_many.items():
                given = await self._give_up(owner, size)
                stored[owner] -= given
                if given < size:
                    most = max(most - stored.pop(owner), even * len(stored))
        await self.remove_deleted()

    async def _give_up(self, owner: str, too_many: int) -> int:
        """Delete jobs of one owner that have stored so much, if there are; gives how much that was."""
        given, last = 0, None
        while given < too_many:
            page = await self._writer.read(partial(claims.ended_first, owner=owner, after=last, most=BATCH))
            if not page:
                break
            last = page[-1]
            chosen = []
            for job in page:
                size = await asyncio.to_thread(self._contents.bytes_of, job.ref)
                if size and given < too_many:
                    chosen.append(job.number)
                    given += size
            deleted = await self._writer.write(partial(delete_jobs, numbers=chosen))
            log.warning("jobs deleted: outputs are beyond keep_outputs_mib", extra={"owner": owner, "jobs": deleted})
        return given


def _owner(job: JobRef) -> str:
    return job.partition("/")[0]


def _some(walk: Iterator[T]) -> list[T]:
    return list(islice(walk, BATCH))
