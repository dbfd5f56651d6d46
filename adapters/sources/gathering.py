"""Doing for many at once what each of several pieces of work comes to: what comes meanwhile goes together next time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")

#: How long to gather, seconds: what is written down together costs little more than one.
GATHER_S = 0.005


class Gathering(Generic[K, R]):
    """See the module. Whoever adds something waits until that is done. Belongs to one loop."""

    def __init__(self, do: Callable[[Sequence[K]], Awaitable[R]], most: int) -> None:
        """``do`` is called for up to ``most`` at once, never twice at the same time. It must be idempotent: of those
        who wait the first calls it, and where that one is cancelled meanwhile the next one calls it again."""
        self._do, self._most = do, most
        self._turn = asyncio.Lock()
        self._next: _Portion[K, R] = _Portion()

    async def add(self, one: K, *, alone: bool = False) -> R:
        """Have it done, with others or alone; gives what ``do`` gave for all of them, or raises what that raised.

        What has failed with others is to come alone when it is tried again: it may have been one's own fault.
        """
        if alone:
            portion: _Portion[K, R] = _Portion()
        else:
            if len(self._next.items) >= self._most:
                self._next = _Portion()
            portion = self._next
        portion.items.append(one)
        async with self._turn:
            if portion is self._next:
                await asyncio.sleep(GATHER_S)
                if portion is self._next:
                    self._next = _Portion()
            if portion.result is None:
                portion.result = await self._done(portion.items)
        return portion.result.result()

    async def _done(self, items: Sequence[K]) -> asyncio.Future[R]:
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        try:
            result.set_result(await self._do(items))
        except Exception as error:  # noqa: BLE001  each who waits raises it
            result.set_exception(error)
        return result


class _Portion(Generic[K, R]):
    """What is done together, and what came of it."""

    def __init__(self) -> None:
        self.items: list[K] = []
        self.result: asyncio.Future[R] | None = None
