"""How long each step of an attempt took."""

from __future__ import annotations

import time

import msgspec

from schemas.jobs import Steps


class StepClock:
    """Runs from when it is made; each step begins where the one before it ended."""

    def __init__(self) -> None:
        self.steps = Steps()
        self._began_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """How long the step that is going on has taken by now."""
        return time.monotonic() - self._began_s

    def end(self, step: str) -> None:
        """Note how long the step that ends took, under its name in ``Steps``."""
        self.steps = msgspec.structs.replace(self.steps, **{step: self.elapsed_s})
        self._began_s = time.monotonic()
