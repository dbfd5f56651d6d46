"""How a daemon treats memory: it looks for garbage in cycles seldom, and keeps nothing of what loading it took.

Python's own rhythm is made for programs that end soon.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

#: New objects between two looks, and looks between two at what is older. Python's 700 look several times a job.
THRESHOLDS = (20_000, 20, 20)


def collect_rarely() -> None:
    """Look seldom from now on, and never again at what is there already: a daemon's modules live as long as it does.
    What was read to load them goes back to the machine, where the C library can do that: 0.4 MB of a guest's 21."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
