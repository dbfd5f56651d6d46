"""One fetch of each input, however many guests wait for it; what nobody waits for is given up, and can go on later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from broker.errors import TransferFailed
from broker.transfer.landing import Landing, Open
from host_agent.inputs.store import InputStore, KeptInput
from schemas.errors import ErrorCode

log = logging.getLogger(__name__)

#: Fetches (digest) for (VM) into a landing, telling how much has come.
Fetch = Callable[[str, str, Open, Callable[[int], None]], Awaitable[None]]
#: Fetches at work; the storage adapters serve as many of one sender.
AT_ONCE = 4
#: A fetch to which nothing comes for so long is given up, seconds: whoever waits asks the centre himself.
STALLED_S = 10.0
#: How often that is looked at, seconds.
_LOOK_S = 0.5


class _Coming:
    """A fetch under way."""

    def __init__(self, task: asyncio.Task[KeptInput]) -> None:
        self.task = task
        self.waiting = 0


class _Watch:
    """How far a fetch is, and since when nothing has come that should."""

    def __init__(self, land: Open) -> None:
        self._land = land
        self.received, self._size = 0, 0
        #: Our own disk is at work, as long as that takes.
        self._is_at_disk = False
        self._heard_s = time.monotonic()

    def land(self, size: int) -> Landing:
        """Open the landing. In a thread."""
        self._size, self._is_at_disk = size, True
        return self._land(size)

    def on_progress(self, received: int) -> None:
        """Something has come, if only the word that it will."""
        self.received, self._heard_s = received, time.monotonic()
        self._is_at_disk = 0 < self._size <= received

    @property
    def is_stalled(self) -> bool:
        """Nothing has come for too long."""
        return not self._is_at_disk and time.monotonic() - self._heard_s > STALLED_S


class InputFetches:
    """See the module. Belongs to one loop."""

    def __init__(self, store: InputStore, fetch: Fetch) -> None:
        self._store, self._fetch = store, fetch
        self._coming: dict[str, _Coming] = {}
        self._watches: dict[str, _Watch] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        #: Files that were fetched, and their bytes.
        self.made = self.fetched_bytes = 0

    def received(self, sha256: str) -> int:
        """Say how many bytes of an input have come."""
        watch = self._watches.get(sha256)
        return watch.received if watch is not None else 0

    async def fetch(self, sha256: str, vm: str) -> KeptInput:
        """Fetch an input that the store has not, for a VM, or wait for who does. Raises TransferFailed."""
        coming = self._coming.get(sha256)
        if coming is None:
            task = asyncio.create_task(self._run(sha256, vm), name=f"input {sha256[:12]}")
            coming = self._coming[sha256] = _Coming(task)
            task.add_done_callback(lambda _: self._ended(sha256, task))
        coming.waiting += 1
        try:
            return await asyncio.shield(coming.task)
        finally:
            coming.waiting -= 1
            if not coming.waiting:
                coming.task.cancel()
                if self._coming.get(sha256) is coming:
                    del self._coming[sha256]  # who asks from now on begins anew

    async def close(self) -> None:
        """Give all up; what came is there for the next agent. Idempotent."""
        tasks = [one.task for one in self._coming.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, sha256: str, vm: str) -> KeptInput:
        async with self._places:
            watch = self._watches[sha256] = _Watch(self._store.landing(sha256))
            try:
                await self._fetch_watched(sha256, vm, watch)
            finally:
                if self._watches.get(sha256) is watch:
                    del self._watches[sha256]
        kept = await asyncio.to_thread(self._store.find, sha256)
        if kept is None:
            raise TransferFailed(ErrorCode.CONFLICT, f"input {sha256} was fetched, and is not there")
        self.made += 1
        self.fetched_bytes += kept.size
        log.info("input fetched", extra={"sha256": sha256, "bytes": kept.size})
        return kept

    async def _fetch_watched(self, sha256: str, vm: str, watch: _Watch) -> None:
        fetching = asyncio.ensure_future(self._fetch(sha256, vm, watch.land, watch.on_progress))
        try:
            while not fetching.done():
                await asyncio.wait([fetching], timeout=_LOOK_S)
                if watch.is_stalled and not fetching.done():
                    raise TransferFailed(ErrorCode.TIMEOUT, f"nothing has come for {STALLED_S:g} s")
            fetching.result()
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    def _ended(self, sha256: str, task: asyncio.Task[KeptInput]) -> None:
        coming = self._coming.get(sha256)
        if coming is not None and coming.task is task:
            del self._coming[sha256]
        if not task.cancelled():
            task.exception()  # told to who waited
