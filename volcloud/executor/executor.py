"""``concurrent.futures`` on volunteers' machines: each call is made in a guest, and its result comes home."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from broker.errors import BrokerError, Disconnected
from schemas.vms import VmState
from volcloud.client.async_client import AsyncClient
from volcloud.data_directory import console_address
from volcloud.errors import BadInput, ClientNotOpen, VolcloudError
from volcloud.executor.archive import ARCHIVE
from volcloud.executor.batch import Batch, CallFuture, Chunk
from volcloud.executor.call_centre import CallCentre
from volcloud.executor.call_files import Terms, describe, scratch_directory
from volcloud.executor.dispatch import GATHER_MOST_S, GATHER_S, MOST_JOBS, Dispatch
from volcloud.executor.packing import Call, pickle_calls, pickle_function
from volcloud.executor.payload import CALLS, RESULT, SHARED
from volcloud.job_file import prepare
from volcloud.loop_thread import LoopThread

log = logging.getLogger("volcloud.executor")

R = TypeVar("R")
#: As many as one VM is believed to have; its host says it.
MOST_CPUS = 64
#: Jobs of one map for each slot that there is, unless it is said how many calls one makes: Python begins in each, and a
#: slot that is done early takes another. For how long it is known how many slots there are, seconds.
JOBS_A_SLOT, SLOTS_S = 4, 60.0
#: Slots that are taken to be there where there is none at that moment, and calls of one job at most: their results come
#: together.
GUESSED_SLOTS, MOST_CALLS = 8, 500
#: The calls of one batch, pickled, unless one of them has more.
BATCH_BYTES = 16 << 20


class VolunteerExecutor(Executor):
    """Makes calls in guests: ``with VolunteerExecutor() as pool: sum(pool.map(f, range(100)))``.

    What is called travels by value, with what it refers to; what it needs beyond Python must be in the image, or come
    as one of ``files``. What it gives travels as data and is never run here: numbers, text, bytes, containers, dates,
    arrays of numpy's, paths, and dataclasses, named tuples, enumerations and exceptions of modules that are loaded
    here. An exception that a call raises is raised by its future, with where in the guest as its cause. A future may be
    cancelled until there is a result. Callbacks of futures are called in threads of ours.
    """

    def __init__(
        self,
        data: Path | str | None = None,
        *,
        requirements: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        files: Iterable[Path | str] = (),
        wall_time_s: float = 86400.0,
        priority: int = 0,
        python: str = "python3",
        trust_guests: bool = False,
        most_result_mib: float = 64.0,
        keep: bool = False,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        """Connect to the system of a data directory: this one, VOLCLOUD_DATA, or the user's.

        ``files`` stand beside each call; wheels and archives among them can be imported. ``requirements``,
        ``environment``, ``wall_time_s`` and ``priority`` are the jobs', as in a job file; the wall time is for all
        calls of one job. With ``trust_guests`` results are unpickled, so that a guest can run here what it wants.
        A job's results that take more than ``most_result_mib`` are not brought home. Jobs are deleted once all of a
        batch have ended, unless ``keep``. ``say`` tells a person what is waited for. Raises Unreachable, BadInput.
        """
        terms = Terms(
            python=python,
            requirements=requirements or {},
            environment=environment or {},
            files=_files(files),
            wall_time_s=wall_time_s,
            priority=priority,
            trust_guests=trust_guests,
            keep=keep,
            most_result_bytes=int(most_result_mib * (1 << 20)),
        )
        prepare(describe(terms, "calls"))
        self._client = AsyncClient(console_address(data))
        self._scratch = scratch_directory()
        self._thread = LoopThread("volcloud executor")
        self._lock = threading.Lock()
        self._is_shut = False
        self._waiting: list[Chunk] = []
        self._futures: set[Future[Any]] = set()
        #: How many slots there were when it was asked, and until when that is believed.
        self._slots_known = 0, 0.0
        try:
            self._thread.wait_for(self._client.open())
            self._dispatch = self._thread.wait_for(self._begin(terms, say))
        except BaseException:
            self._close()
            raise

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Have ``fn(*args, **kwargs)`` called. Raises BadInput, which names what cannot travel; RuntimeError after
        ``shutdown``."""
        chunk = self._chunk([(fn, args, kwargs)])
        with self._lock:
            self._check_open()
            self._keep(chunk)
            try:
                self._waiting.append(chunk)
                if len(self._waiting) == 1:
                    self._thread.start(self._gather())
            except BaseException:
                # Interrupted in the midst: what comes later is not to wait for a gathering that nobody has begun.
                with suppress(ValueError):
                    self._waiting.remove(chunk)
                chunk.futures[0].cancel()
                raise
        return chunk.futures[0]

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
    ) -> Iterator[R]:
        """Give ``fn`` of each item in order, as ``map`` does; all are sent at once. ``chunksize`` calls are one job,
        one after the other; unless it is said, as many as give each slot that there is some jobs. Raises as ``submit``
        does, ValueError for a ``chunksize``, and while the results are taken TimeoutError after ``timeout`` seconds."""
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"chunksize = {chunksize}: must be at least 1; leave it out, or give a number of calls")
        with self._lock:
            self._check_open()
        ends_s = None if timeout is None else time.monotonic() + timeout
        calls: list[Call] = [(None, args, {}) for args in zip(*iterables, strict=False)]
        size = chunksize or min(MOST_CALLS, max(1, len(calls) // (JOBS_A_SLOT * self._slots())))
        shared = pickle_function(fn)
        chunks = [self._chunk(calls[start : start + size], fn) for start in range(0, len(calls), size)]
        with self._lock:
            self._check_open()
            for chunk in chunks:
                self._keep(chunk)
        futures = [future for chunk in chunks for future in chunk.futures]
        try:
            self._thread.start(self._send(shared, chunks))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return _results(futures, ends_s)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait until those that were given have ended, and disconnect. Without ``wait`` that
        happens while the program goes on; one that ends before leaves its jobs at the centre. Idempotent."""
        with self._lock:
            self._is_shut = True
            futures = [*self._futures]
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            self._finish(futures)
        else:
            threading.Thread(target=self._finish, args=(futures,), name="volcloud executor ends", daemon=True).start()

    async def _begin(self, terms: Terms, say: Callable[[str], None]) -> Dispatch:
        dispatch = Dispatch(CallCentre(self._client, say), terms, Path(self._scratch.name))
        await dispatch.open()
        return dispatch

    def _slots(self) -> int:
        """Say how many jobs can run at once; a guess where none can now, or that cannot be asked."""
        slots, until_s = self._slots_known
        if time.monotonic() > until_s:
            try:
                rows = self._thread.wait_for(self._client.vms.list())
                live = [row.status.cpus for row in rows if row.status.state == VmState.RUNNING]
                slots = sum(min(cpus, MOST_CPUS) for cpus in live)
            except (VolcloudError, BrokerError) as error:
                log.info("how many slots there are cannot be asked", extra={"why": str(error)})
            self._slots_known = slots, time.monotonic() + (SLOTS_S if slots else 0.0)
        return slots or GUESSED_SLOTS

    def _chunk(self, calls: Sequence[Call], shared: Callable[..., Any] | None = None) -> Chunk:
        return Chunk(pickle_calls(calls, shared), len(calls), self._look_soon)

    def _look_soon(self) -> None:
        with suppress(ClientNotOpen):
            self._thread.start(self._nudge())

    async def _nudge(self) -> None:
        self._dispatch.look_soon()

    def _keep(self, chunk: Chunk) -> None:
        self._futures.update(chunk.futures)
        for future in chunk.futures:
            future.add_done_callback(self._futures.discard)

    async def _gather(self) -> None:
        """Send what was given one by one within a moment."""
        await asyncio.sleep(min(GATHER_S * (1 + self._dispatch.under_way), GATHER_MOST_S))
        with self._lock:
            chunks, self._waiting = self._waiting, []
        await self._send(b"", chunks)

    async def _send(self, shared: bytes, chunks: Sequence[Chunk]) -> None:
        for part in _parts(chunks):
            self._dispatch.begin(Batch(shared, part))

    def _check_open(self) -> None:
        if self._is_shut:
            raise RuntimeError("the executor was shut down: make another")

    def _finish(self, futures: Sequence[Future[Any]]) -> None:
        wait(futures)
        with suppress(ClientNotOpen, Disconnected):  # it was shut down before, or is by somebody else meanwhile
            self._thread.wait_for(self._dispatch.finish())
        self._close()

    def _close(self) -> None:
        self._thread.close(self._end)
        self._scratch.cleanup()

    async def _end(self) -> None:
        if hasattr(self, "_dispatch"):
            await self._dispatch.close()
        await self._client.close()


def _files(files: Iterable[Path | str]) -> tuple[Path, ...]:
    """Check what is to stand beside the calls. Raises BadInput."""
    found: dict[str, Path] = {}
    for path in map(Path, files):
        if not path.is_file():
            raise BadInput(f"files: {str(path)!r} is no file", "name files that are there; of a directory, an archive")
        if path.name in (ARCHIVE, CALLS, RESULT, SHARED) or path.name in found:
            raise BadInput(f"files: {str(path)!r}: that name is taken already", "give it another name")
        found[path.name] = path.absolute()
    return tuple(found.values())


def _parts(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Divide chunks into batches: all of a batch is in one file, which each VM has that makes any of its calls."""
    part: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if part and (len(part) == MOST_JOBS or size + len(chunk.pickled) > BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(chunk)
        size += len(chunk.pickled)
    if part:
        yield part


def _results(futures: list[CallFuture], ends_s: float | None) -> Iterator[Any]:
    """Give results in order; who stops taking them cancels what is left."""
    futures.reverse()
    try:
        while futures:
            left_s = None if ends_s is None else max(0.0, ends_s - time.monotonic())
            result = futures[-1].result(left_s)
            futures.pop()
            yield result
    finally:
        for future in futures:
            future.cancel()
