"""How long a source's last few jobs took. Where they were short, slots take some ahead, and ends come soon. Pure."""

from __future__ import annotations

#: Jobs that are short by their mean over the last few are so, seconds; one that is not counts at once. As in a slot.
SHORT_S, FEW = 0.5, 8


class RecentJobs:
    """See the module. Before any has ended none is taken for short."""

    def __init__(self) -> None:
        self._mean_s = SHORT_S

    @property
    def are_short(self) -> bool:
        """Whether the next ones are likely to be short."""
        return self._mean_s < SHORT_S

    def learn(self, took_s: float) -> None:
        """Note how long a job ran, seconds."""
        is_telling = max(took_s, self._mean_s) >= SHORT_S
        self._mean_s = took_s if is_telling else self._mean_s + (took_s - self._mean_s) / FEW


class LookPauses:
    """When is looked again for what comes with no word: soon after something was there, and ever more seldom."""

    def __init__(self, first_s: float) -> None:
        self._first_s = self._pause_s = first_s

    def soon(self) -> None:
        """Something was there, or is likely to be."""
        self._pause_s = self._first_s

    def pause_s(self, most_s: float) -> float:
        """Say how long to wait for the next look, seconds: ``most_s`` at most."""
        pause_s = min(self._pause_s, most_s)
        self._pause_s = 2 * pause_s
        return pause_s
