"""Runs that take turns: what slows the machine for a while slows every contestant alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping


def alternate(contestants: Mapping[str, Callable[[], float]], runs: int, unit: str) -> dict[str, tuple[float, ...]]:
    """Run each contestant ``runs`` times, in turns; give what each reached, in order. The first failure ends it."""
    reached: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(1, runs + 1):
        for name, run in contestants.items():
            reached[name].append(run())
            say(f"run {number} of {runs}: {name} {reached[name][-1]:,.1f} {unit}")
    return {name: tuple(values) for name, values in reached.items()}


def say(text: str) -> None:
    """Tell a person how far it is; on stderr, the figures alone go to stdout."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
