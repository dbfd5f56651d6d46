"""A batch: calls that go to the centre as one array of jobs, a chunk of them to a job, and what becomes of each."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import cloudpickle

from schemas.ids import uuid7
from schemas.plain_text import plain, plain_lines
from volcloud.errors import CallFailed, CannotTravel, PythonDiffers, RemoteException, RemoteTraceback
from volcloud.executor import values

log = logging.getLogger(__name__)

#: Of what a guest says, in words for a person, characters.
_MOST_WORDS, _MOST_TRACEBACK = 2000, 20_000
#: Commas and brackets of a result: each may become an object of some hundred bytes.
_MOST_PARTS = 2_000_000


class CallFuture(Future[Any]):
    """A call that somebody may wait for. Until its result is here it can be cancelled, also while it runs."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self._on_cancel = on_cancel
        #: Whoever cancels and whoever brings the result are of different threads. No callback is called under it.
        self._ending = threading.Lock()
        self._is_notified = self._is_cancel_told = False

    def cancel(self) -> bool:
        """Cancel it; its job is ended soon after, once nobody wants any call of it. False once there is a result."""
        try:
            return super().cancel()
        finally:  # whatever its callbacks have raised
            self._tell_cancelled()

    def _tell_cancelled(self) -> None:
        with self._ending:
            if not self.cancelled():
                return
            if not self._is_notified:
                self._is_notified = True
                self.set_running_or_notify_cancel()
            is_first, self._is_cancel_told = not self._is_cancel_told, True
        if is_first:
            self._on_cancel()

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Give it its result, or what was raised; nothing where it was cancelled, or has one. Its callbacks are called,
        and what they raise is logged."""
        with self._ending:
            if self.done():
                return
            if not self.set_running_or_notify_cancel():
                self._is_notified = True
                return
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        except BaseException:  # a callback of the person's: it ends neither our thread nor other calls
            log.exception("a callback of a call ended otherwise than with an exception")


class Chunk:
    """Calls that one job makes, one after the other: ``pickled`` until they are sent. What ends it calls callbacks: not
    in an event loop's thread."""

    def __init__(self, pickled: bytes, calls: int, on_cancel: Callable[[], None]) -> None:
        self.pickled = pickled
        self.futures = [CallFuture(on_cancel) for _ in range(calls)]
        self.is_done = False
        #: Its result is being brought home.
        self.is_coming = False
        #: Since when that has failed, by the monotonic clock.
        self.failed_since_s: float | None = None

    @property
    def is_cancelled(self) -> bool:
        """Nobody wants any of it."""
        return all(future.cancelled() for future in self.futures)

    def end(self, text: bytes, *, trusted: bool) -> None:
        """Give each call what the job has written. Never fails: a call whose result cannot be read is told so."""
        try:
            if (parts := text.count(b",") + text.count(b"[")) > _MOST_PARTS:
                raise CannotTravel(f"{parts} parts, of which {_MOST_PARTS} are taken: give an array, or bytes")
            ends = _ends(json.loads(text), len(self.futures), trusted)
        except Exception as error:  # noqa: BLE001  a guest has written it
            ends = [(None, _unreadable(error))] * len(self.futures)
        self._settle(ends)

    def fail(self, error: BaseException) -> None:
        """Give each call that has no result an error."""
        self._settle([(None, error)] * len(self.futures))

    def _settle(self, ends: Sequence[End]) -> None:
        try:
            for future, end in zip(self.futures, ends, strict=True):
                future.settle(*end)
        finally:
            self.is_done = True


class Batch:
    """See the module. ``shared`` is what all its calls call, pickled, if that is one thing."""

    def __init__(self, shared: bytes, chunks: Sequence[Chunk]) -> None:
        self.id = f"calls-{uuid7()[-12:]}"
        self.shared, self.chunks = shared, chunks
        #: It has gone to the centre, which may have taken it; and it has said so.
        self.is_going = self.is_submitted = False
        #: A result of it is at the centre that could not be brought home.
        self.is_left = False
        #: How many of its jobs were in which state at the last look; None: to be looked at whatever that is.
        self.counts: dict[str, int] | None = None

    def open(self) -> list[tuple[int, Chunk]]:
        """Give the chunks that have not ended, with their jobs' indices."""
        return [(index, chunk) for index, chunk in enumerate(self.chunks, 1) if not chunk.is_done]

    @property
    def is_done(self) -> bool:
        """All have ended."""
        return all(chunk.is_done for chunk in self.chunks)

    @property
    def is_unwanted(self) -> bool:
        """Nobody wants anything of it."""
        return all(chunk.is_cancelled for chunk in self.chunks)

    def fail(self, error: BaseException) -> None:
        """Give every call that has no result an error. As with chunks, not in a loop's thread."""
        for chunk in self.chunks:
            chunk.fail(error)


End = tuple[Any, BaseException | None]


def _ends(told: Any, calls: int, trusted: bool) -> list[End]:
    """Read a job's result, an end for each call. Raises whatever."""
    if "python" in told:
        return [(None, PythonDiffers([int(part) for part in told["python"]][:3]))] * calls
    if "raised" in told:
        return [_end(told, trusted)] * calls
    if len(told["calls"]) != calls:
        raise CannotTravel(f"{len(told['calls'])} results for {calls} calls")
    return [_end(one, trusted) for one in told["calls"]]


def _end(told: Any, trusted: bool) -> End:
    try:
        return _read_end(told, trusted)
    except Exception as error:  # noqa: BLE001  a guest has written it
        return None, _unreadable(error)


def _read_end(told: dict[str, Any], trusted: bool) -> End:
    if "raised" in told:
        error = values.read(told["raised"])
        if not isinstance(error, Exception):
            raise CannotTravel("what was raised is no exception")
        if isinstance(error, RemoteException):
            error = RemoteException(plain_lines(error.message[:_MOST_WORDS]), error.next_step)
        error.__cause__ = RemoteTraceback(plain_lines(str(told["traceback"])[-_MOST_TRACEBACK:]))
        return None, error
    if "kept" in told:
        why = plain(str(told["kept"])[:_MOST_WORDS])
        return None, CallFailed(
            f"the call has ended well, but what it gave stays in the guest: {why}",
            "have it give numbers, text, bytes, containers or arrays; or trust the guests with trust_guests=True",
        )
    if trusted and "pickled" in told:
        return cloudpickle.loads(base64.b64decode(told["pickled"])), None
    return values.read(told["value"]), None


def _unreadable(error: Exception) -> CallFailed:
    text = f"what the guest says came of it cannot be read: {type(error).__name__}: {plain(str(error)[:_MOST_WORDS])}"
    return CallFailed(text, "see what it gives; if that is data, the guest is broken, or hostile: call it again")
