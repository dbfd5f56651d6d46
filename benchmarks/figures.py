"""A figure: what ours and a peer reached in alternating runs, and the goal for their ratio. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

#: Columns of the table: name, ours, peer's, ratio, goal.
_COLUMNS = "{:<34} {:>16} {:>16} {:>8} {:>10}  {}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the result. Without ``peer`` the goal is a limit for ours alone; without a goal, none is set."""

    name: str
    unit: str
    ours: tuple[float, ...]
    peer: tuple[float, ...] = ()
    #: With a peer: the least that ours / peer may be. Without: the most that ours may be.
    goal: float | None = None
    #: Where less is better: the most that ours / peer may be; or by how much ours may be above the peer's, in the unit.
    most: float | None = None
    margin: float | None = None

    @property
    def ratio(self) -> float | None:
        """Ours by the peer's: the median of the ratios of neighbouring runs, so that a slow minute counts for both."""
        return median(ours / peer for ours, peer in zip(self.ours, self.peer, strict=True)) if self.peer else None

    @property
    def is_met(self) -> bool:
        """The goal is reached, or there is none."""
        if self.margin is not None and self.peer:
            return median(ours - peer for ours, peer in zip(self.ours, self.peer, strict=True)) <= self.margin
        if self.most is not None and self.ratio is not None:
            return self.ratio <= self.most
        if self.goal is None:
            return True
        return self.ratio >= self.goal if self.ratio is not None else median(self.ours) <= self.goal

    @property
    def told_goal(self) -> str:
        """The goal as a person reads it; "-" where there is none."""
        if self.margin is not None:
            return f"<= +{self.margin:g} {self.unit}"
        if self.most is not None:
            return f"<= {self.most:g}"
        if self.goal is None:
            return "-"
        return f"{'<=' if self.ratio is None else '>='} {self.goal:g}"


def header() -> str:
    """Name the columns."""
    return _COLUMNS.format("figure", "ours", "peer's", "ratio", "goal", "")


def render(figure: Figure) -> str:
    """Put a figure in one line."""
    peer = _amount(figure.peer, figure.unit) if figure.peer else "-"
    ratio = "-" if figure.ratio is None else f"{figure.ratio:.2f}"
    goal = figure.told_goal
    verdict = "" if goal == "-" else ("ok" if figure.is_met else "MISSED")
    return _COLUMNS.format(figure.name, _amount(figure.ours, figure.unit), peer, ratio, goal, verdict)


def _amount(values: tuple[float, ...], unit: str) -> str:
    value = median(values)
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def percentile(values: list[float], share: float) -> float:
    """Give the smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered)) - 1))]
