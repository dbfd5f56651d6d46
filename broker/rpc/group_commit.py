"""Records on their way to the disk: what gathers while one write is under way shares the next one's sync.

On a full disk what shall begin is refused, and what is at hand is brought to its end, which is what gives room. What
the disk does not take can be owed: it goes with each write until the disk takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from broker.backoff import backoff
from broker.daemon.tasks import OwnedTasks
from broker.rpc.entries import Record, barrier, is_beginning
from broker.rpc.record_file import RecordFile, frame


class _Batch:
    """Records that have gathered for one write, and the future of all who wait for it."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.durable: asyncio.Future[None] | None = None

    def add(self, record: bytes) -> asyncio.Future[None]:
        self.records.append(record)
        if self.durable is None:
            self.durable = asyncio.get_running_loop().create_future()
        return self.durable

    def settle(self, error: BaseException | None) -> None:
        """Tell all who wait that it is durable, or why it is not."""
        if self.durable is None or self.durable.done():
            return
        if error is None:
            self.durable.set_result(None)
        else:
            self.durable.set_exception(error)


class GroupCommit:
    """See the module. ``on_written`` is called after each write, before the next one begins. Belongs to one loop."""

    def __init__(self, file: RecordFile, on_written: Callable[[], None]) -> None:
        self._file, self._on_written = file, on_written
        #: What is new, and what brings something to its end: that may use the reserve.
        self._new, self._ending = _Batch(), _Batch()
        #: Records that the disk has not taken.
        self._owed: list[bytes] = []
        self._tasks = OwnedTasks("journal")
        self._paying: asyncio.Task[None] | None = None
        #: Set while a flush waits for more that is in no hurry.
        self._gathering: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def append(self, *records: Record, within_s: float = 0.0) -> None:
        """Write records of one command; when this returns they survive kill -9. They may wait ``within_s`` for others
        to share a sync with. Raises OSError: none is written."""
        batch = self._new if is_beginning(records[0]) else self._ending
        durable = batch.add(b"".join(map(frame, records)))
        self._flush_soon(within_s)
        await asyncio.shield(durable)

    async def barrier(self) -> None:
        """Wait until what was appended before is durable, or has failed. Raises OSError."""
        await self.append(barrier())

    def owe(self, record: Record) -> None:
        """Write it with whatever is written next, and soon, and again until the disk takes it."""
        self._owed.append(frame(record))
        if self._paying is None or self._paying.done():
            self._paying = self._tasks.spawn(self._pay(), name="journal owes")

    def between_writes(self, work: Callable[[], None]) -> None:
        """Have the thread do something that no write may happen in the midst of."""
        self._thread.submit(work)

    async def close(self) -> None:
        """Wait until all is durable, or the disk takes nothing."""
        await self._tasks.cancel()
        if self._owed:
            with suppress(OSError):
                await self.barrier()
        await self._idle.wait()
        await asyncio.to_thread(self._thread.shutdown)

    async def _pay(self) -> None:
        for wait_s in backoff(0.5, 10.0):
            await asyncio.sleep(wait_s)
            with suppress(OSError):
                await self.barrier()
            if not self._owed:
                return

    def _flush_soon(self, within_s: float) -> None:
        """Have what has gathered flushed: with the flush after the one that is under way, else now or within a time."""
        loop = asyncio.get_running_loop()
        if self._idle.is_set():
            self._idle.clear()
            if within_s:
                self._gathering = loop.call_later(within_s, self._flush)
            else:
                loop.call_soon(self._flush)
        elif self._gathering is not None and not within_s:
            self._gathering.cancel()
            self._gathering = None
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Hand everything that has gathered to the thread; what gathers meanwhile goes with the next flush."""
        self._gathering = None
        new, ending = self._new, self._ending
        if new.durable is None and ending.durable is None:
            self._idle.set()
            return
        self._new, self._ending = _Batch(), _Batch()
        owed = len(self._owed)
        last_words = b"".join([*self._owed, *ending.records])
        written = self._thread.submit(self._file.append, b"".join(new.records), last_words)
        loop = asyncio.get_running_loop()
        written.add_done_callback(lambda done: loop.call_soon_threadsafe(self._settle, new, ending, done, owed))

    def _settle(self, new: _Batch, ending: _Batch, written: Future[OSError | None], owed: int) -> None:
        error = written.exception()
        if error is None:
            del self._owed[:owed]
        ending.settle(error)
        new.settle(error or written.result())
        self._on_written()
        self._flush()
