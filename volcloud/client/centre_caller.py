"""How a client asks the centre: each silence becomes an error that says what to do, within seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from broker.backoff import backoff
from broker.errors import CallTimeout, NotDelivered, RemoteError
from broker.rpc.caller import Caller
from schemas.envelope import Message
from schemas.errors import DecodeError
from schemas.ledger import HostList, Hosts
from volcloud.errors import BadInput, Unreachable

#: How long an answer of a centre that is at work may take, seconds: orders on many jobs take a while.
ANSWER_S = 60.0
#: Silence after which the centre is asked whether it is there at all, and how long that answer may take, seconds.
QUIET_S, AWAKE_S = 3.5, 3.5
#: How long the key manager may take, seconds; it does one thing after the other.
KEYS_S = 7.5
_SILENT = "see with `volcloud status` which process is down, and in DIR/log why"

R = TypeVar("R", bound=Message)
T = TypeVar("T")


class CentreCaller:
    """Questions and orders to the adapters and the key manager. Raises Unreachable when they do not answer, and
    RemoteError when they answer no."""

    def __init__(self, caller: Callable[[], Caller]) -> None:
        """``caller`` gives what calls, or raises why nothing does."""
        self._caller = caller

    async def ask(self, message: Message, kind: type[R], what: str = "call") -> R:
        """Ask the job adapters for as long as the centre is there: one that is frozen, or cut off, is told within ten
        seconds. ``what`` is the call's family on the wire: a question, or ``submit``."""
        work = asyncio.ensure_future(self._caller().call_centre(what, message, kind, timeout_s=ANSWER_S))
        with _silence_told(f"the centre is there but does not answer in {ANSWER_S:.0f} s"):
            try:
                await asyncio.wait([work], timeout=QUIET_S)
                while not work.done():
                    await self._check_awake(work)
                    await asyncio.wait([work], timeout=QUIET_S)
                return await work
            finally:
                await _end(work)

    async def ask_keys(self, message: Message, kind: type[R]) -> R:
        """Ask the key manager, who has seconds to answer."""
        with _silence_told(f"the key manager does not answer in {KEYS_S:.0f} s"):
            return await self._caller().call_centre("keys", message, kind, timeout_s=KEYS_S)

    async def _check_awake(self, work: asyncio.Future[R]) -> None:
        """Ask something small beside a question that takes long. Raises Unreachable where that has no answer either,
        or says that the ledger cannot be read."""
        small = asyncio.ensure_future(self._caller().call_centre("call", HostList(limit=1), Hosts, timeout_s=AWAKE_S))
        try:
            both: list[asyncio.Future[Any]] = [work, small]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                small.result()
        except CallTimeout as error:
            text = f"no job adapter has answered for {QUIET_S + AWAKE_S:.0f} s"
            raise Unreachable(text, _SILENT) from error
        except RemoteError as error:
            raise Unreachable(f"the centre cannot read its ledger: {error.message}", _SILENT) from error
        finally:
            await _end(small)


@contextmanager
def _silence_told(silence: str) -> Iterator[None]:
    """Turn what the floor below says of a call into what a person does about it."""
    try:
        yield
    except CallTimeout as error:
        raise Unreachable(silence, _SILENT) from error
    except NotDelivered as error:
        raise Unreachable(f"the broker did not take the question: {error}", _SILENT) from error
    except DecodeError as error:
        raise BadInput(str(error), "make it shorter; what is large belongs into input files") from error


async def _end(work: asyncio.Future[Any]) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def insist(
    ask: Callable[[], Awaitable[T]], *, deadline: float | None, on_trouble: Callable[[Unreachable], None] | None
) -> T:
    """Ask again for as long as nobody answers, and tell each time. Raises Unreachable after ``deadline``."""
    waits = backoff(0.2, 5.0)
    while True:
        try:
            return await ask()
        except Unreachable as trouble:
            if deadline is not None and time.monotonic() > deadline:
                raise
            if on_trouble is not None:
                on_trouble(trouble)
        await asyncio.sleep(next(waits))
