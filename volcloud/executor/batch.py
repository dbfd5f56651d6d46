"""A batch: calls that go to the centre as one array of jobs, a chunk of them to a job, and what becomes of each."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import cloudpickle

from schemas.ids import uuid7
from volcloud.errors import CallFailed, CannotTravel, PythonDiffers, RemoteTraceback
from volcloud.executor import values


class CallFuture(Future[Any]):
    """A call that somebody may wait for. Until its result is here it can be cancelled, also while it runs."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self._on_cancel = on_cancel
        #: Whoever cancels and whoever brings the result are of different threads.
        self._ending = threading.RLock()

    def cancel(self) -> bool:
        """Cancel it; its job is ended soon after. False once there is a result."""
        with self._ending:
            is_new = not self.done()
            if not super().cancel():
                return False
            if is_new:
                self.set_running_or_notify_cancel()
        if is_new:
            self._on_cancel()
        return True

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Give it its result, or what was raised; nothing where it was cancelled, or has one."""
        with self._ending:
            if self.done() or not self.set_running_or_notify_cancel():
                return
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)


class Chunk:
    """Calls that one job makes, one after the other: ``pickled`` until they are sent."""

    def __init__(self, pickled: bytes, calls: int, on_cancel: Callable[[], None]) -> None:
        self.pickled = pickled
        self.futures = [CallFuture(on_cancel) for _ in range(calls)]
        self.is_done = False

    @property
    def is_cancelled(self) -> bool:
        """Nobody wants any of it."""
        return all(future.cancelled() for future in self.futures)

    def end(self, text: bytes, *, trusted: bool) -> None:
        """Give each call what the job has written. Never fails: what cannot be read is what is given."""
        try:
            told = json.loads(text)
            if "python" in told:
                return self.fail(_differs(told["python"]))
            ends = [*map(_reader(trusted), told["calls"])]
        except Exception as error:  # noqa: BLE001  a guest has written it
            return self.fail(_unreadable(error))
        if len(ends) != len(self.futures):
            return self.fail(_unreadable(ValueError(f"{len(ends)} results for {len(self.futures)} calls")))
        self.is_done = True
        for future, end in zip(self.futures, ends, strict=True):
            future.settle(*end)
        return None

    def fail(self, error: BaseException) -> None:
        """Give each call that has no result an error."""
        self.is_done = True
        for future in self.futures:
            future.settle(None, error)


class Batch:
    """See the module. ``shared`` is what all its calls call, pickled, if that is one thing."""

    def __init__(self, shared: bytes, chunks: Sequence[Chunk]) -> None:
        self.id = f"calls-{uuid7()[-12:]}"
        self.shared, self.chunks = shared, chunks
        self.is_submitted = False

    def open(self) -> list[tuple[int, Chunk]]:
        """Give the chunks that have not ended, with their jobs' indices."""
        return [(index, chunk) for index, chunk in enumerate(self.chunks, 1) if not chunk.is_done]

    @property
    def is_done(self) -> bool:
        """All have ended."""
        return all(chunk.is_done for chunk in self.chunks)

    def fail(self, error: BaseException) -> None:
        """Give every call that has no result an error."""
        for chunk in self.chunks:
            chunk.fail(error)


End = tuple[Any, BaseException | None]


def _reader(trusted: bool) -> Callable[[dict[str, Any]], End]:
    def read(told: dict[str, Any]) -> End:
        if "raised" in told:
            error = values.read(told["raised"])
            if not isinstance(error, BaseException):
                raise CannotTravel("what was raised is no exception")
            error.__cause__ = RemoteTraceback(str(told["traceback"]))
            return None, error
        if "kept" in told:
            return None, CallFailed(
                f"the call has ended well, but what it gave stays in the guest: {told['kept']}",
                "have it give numbers, text, bytes, containers or arrays; or trust the guests with trust_guests=True",
            )
        if trusted and "pickled" in told:
            return cloudpickle.loads(base64.b64decode(told["pickled"])), None
        return values.read(told["value"]), None

    return read


def _differs(version: Sequence[int]) -> PythonDiffers:
    return PythonDiffers([int(part) for part in version][:3])


def _unreadable(error: Exception) -> CallFailed:
    text = f"what the guest says came of it cannot be read: {type(error).__name__}: {str(error)[:1000]}"
    return CallFailed(text, "call it again; a guest that does this again is broken, or hostile")
