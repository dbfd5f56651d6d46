"""The few shapes of query that the dashboard needs, over the adapters that are chosen at its top.

Counters are summed over the adapters. Numbers about the whole ledger are the same in every job adapter and 0 in a
storage adapter, so their maximum is taken.
"""

from __future__ import annotations

_CHOSEN = 'adapter=~"$adapter"'


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Events a second over all adapters."""
    return f"sum{_grouped(by)}(rate({series(metric, where)}[$__rate_interval]))"


def increase(metric: str, where: str = "") -> str:
    """Events in the time that is shown, as the whole number that they are: Prometheus extrapolates."""
    return f"round(sum(increase({series(metric, where)}[$__range])))"


def most(metric: str, by: str = "", where: str = "") -> str:
    """A number that every job adapter says alike."""
    return f"max{_grouped(by)}({series(metric, where)})"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """The value under which that share of the events lies, from a histogram."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', groups, where)})"


def ratio(metric: str, where: str) -> str:
    """The share of the events that ``where`` chooses; no number while there are none at all."""
    return f"{rate(metric, where=where)} / {rate(metric)}"


def series(metric: str, where: str = "") -> str:
    """The series of the chosen adapters."""
    return f"{metric}{{{', '.join(filter(None, (_CHOSEN, where)))}}}"


def _grouped(by: str) -> str:
    return f" by ({by}) " if by else ""
