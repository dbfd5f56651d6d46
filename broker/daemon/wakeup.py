"""A sleep that somebody can end early."""

from __future__ import annotations

import asyncio


class Wakeup:
    """One task sleeps, others wake it. Belongs to one loop."""

    def __init__(self) -> None:
        self._is_due = asyncio.Event()

    def wake(self) -> None:
        """End the sleep, or else the next one as soon as it begins. Idempotent."""
        self._is_due.set()

    def clear(self) -> None:
        """Forget a wake that came: what it was for is about to be done anyway."""
        self._is_due.clear()

    async def sleep(self, limit_s: float | None) -> bool:
        """Sleep until woken, but no longer than ``limit_s``. Gives whether it was woken, which is then forgotten."""
        try:
            async with asyncio.timeout(limit_s):
                await self._is_due.wait()
        except TimeoutError:
            return False
        self._is_due.clear()
        return True
