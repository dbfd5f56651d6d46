"""The steps of the demo as a person sees them: named, one after the other, each with the time it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class DemoSteps:
    """Tells each step as it begins and ends, and keeps how long it took."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._began = clock()
        #: Seconds by name, in order.
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Mark a step; one that an error ends has its time as well."""
        began = self._clock()
        self._tell(f"== {name}: {what}")
        try:
            yield
        finally:
            self.seconds[name] = self._clock() - began

    def say(self, text: str) -> None:
        """Tell how it goes within a step."""
        self._tell(f"   [{self._clock() - self._began:6.1f} s] {text}")

    def total(self, *names: str) -> float:
        """Add steps up; those that were not reached count nothing."""
        return sum(self.seconds.get(name, 0.0) for name in names)
