"""A wait that somebody can end before its time."""

from __future__ import annotations

import asyncio
import contextlib


class Pulse:
    """Paces a loop: the next round comes after a while, or at once when somebody asks for it. Lives on one loop."""

    def __init__(self) -> None:
        self._now = asyncio.Event()

    def now(self) -> None:
        """Have the next round begin at once; one that is going on is followed by another."""
        self._now.set()

    def begin(self) -> None:
        """A round begins: what is asked for from now on is another one."""
        self._now.clear()

    async def rest(self, seconds: float | None = None) -> None:
        """Wait until the next round is asked for, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._now.wait()
