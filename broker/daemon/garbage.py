"""How often a daemon's process looks for garbage in cycles: Python's own rhythm is made for programs that end soon."""

from __future__ import annotations

import gc

#: New objects between two looks, and looks between two at what is older. Python's 700 look several times a job.
THRESHOLDS = (20_000, 20, 20)


def collect_rarely() -> None:
    """Look seldom from now on, and never again at what is there already: a daemon's modules live as long as it does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
