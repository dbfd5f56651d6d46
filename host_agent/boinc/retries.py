"""How long a task is put off that cannot go on here now: longer each time in a row, and never for a day."""

from __future__ import annotations

import contextlib
from pathlib import Path

from broker import durable

_NAME = "host_agent_retries"
#: Delays one after another, seconds; the last one from then on.
DELAYS_S = (60, 120, 300, 600, 1200, 1800, 3600)


class Retries:
    """See the module. Kept in the slot."""

    def __init__(self, slot: Path) -> None:
        self._path = slot / _NAME

    def next_delay_s(self) -> int:
        """Give the delay that is due now; the next one is longer. A disk that takes no note of it keeps the same."""
        before = 0
        with contextlib.suppress(OSError, ValueError):
            before = max(0, int(self._path.read_bytes()[:20]))
        with contextlib.suppress(OSError):
            durable.replace(self._path, b"%d" % (before + 1))
        return DELAYS_S[min(before, len(DELAYS_S) - 1)]

    def forget(self) -> None:
        """Work has got on: the next delay is a short one."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
