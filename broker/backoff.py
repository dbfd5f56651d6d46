"""How long to wait before trying again: exponential with full jitter, so that a thousand agents do not come at once."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff(first_s: float = 0.2, most_s: float = 30.0) -> Iterator[float]:
    """Yield waits without end, seconds: each uniform between a tenth of a doubling bound and the bound itself."""
    bound = first_s
    while True:
        yield random.uniform(bound / 10, bound)
        bound = min(bound * 2, most_s)
