"""Work that blocks on files, done beside the loop and never left half done.

Transfers have threads of their own: however many there are, and however slow their disk, asyncio's default threads stay
free for what else the process has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

#: As many as asyncio's default ones. None is there before it is needed.
_TRANSFERS = ThreadPoolExecutor(thread_name_prefix="transfers")


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Do it in a thread, and do not go on before that has ended, also when cancelled: it holds an open file."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(_TRANSFERS, work, *args))


async def to_its_end(work: Awaitable[T]) -> T:
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
