"""The processes of a payload: their leader, and what became of it.

A job's are started and ended by its slot's container, a console's command by its minder.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from msgspec import Struct

from guest_agent.cgroup import Figures


class End(Struct, frozen=True, kw_only=True):
    """What became of a leader. ``code`` is its exit status, or minus the signal that ended it."""

    code: int
    figures: Figures
    #: From its start to its end, where who has started it says so; 0 = not said.
    wall_seconds: float = 0.0


class Leader(Protocol):
    """The first process of a payload, and all that it has started. ``ended`` may raise CannotRun, NotContained."""

    ended: asyncio.Future[End]

    def signal(self, number: int) -> None:
        """Signal its group; SIGKILL ends everything. Nothing happens when it is gone."""
