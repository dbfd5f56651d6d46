"""Waiting for something to become true, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], patience_s: float = 15.0) -> None:
    """Look every 10 ms. Raises TimeoutError when it does not become true in time."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110  what is watched has no event of its own
            await asyncio.sleep(0.01)
