"""Work that blocks on files, done beside the loop and never left half done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Do it in a thread, and do not go on before that has ended, also when cancelled: it holds an open file."""
    return await to_its_end(asyncio.to_thread(work, *args))


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do what is of use only as a whole: who is cancelled meanwhile is so when it has ended."""
    job = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        while not job.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([job])
        job.exception()
        raise
