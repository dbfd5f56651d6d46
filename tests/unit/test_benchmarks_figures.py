"""The benchmarks' arithmetic: ratios of neighbouring runs, goals both ways, turns."""

from __future__ import annotations

import pytest

from benchmarks.alternation import alternate
from benchmarks.figures import Figure, percentile, render


def test_a_ratio_is_the_median_of_neighbouring_runs() -> None:
    figure = Figure(name="rpc", unit="calls/s", ours=(100.0, 10.0, 90.0), peer=(200.0, 20.0, 100.0), goal=0.5)

    assert figure.ratio == 0.5
    assert figure.is_met


def test_a_goal_that_is_missed_is_said() -> None:
    figure = Figure(name="rpc", unit="calls/s", ours=(100.0,), peer=(300.0,), goal=0.5)

    assert not figure.is_met
    assert render(figure).split()[-4:] == ["0.33", ">=", "0.5", "MISSED"]


def test_a_figure_without_a_peer_has_a_limit() -> None:
    assert Figure(name="delay", unit="ms", ours=(19.0,), goal=20.0).is_met
    assert not Figure(name="delay", unit="ms", ours=(21.0,), goal=20.0).is_met


def test_a_figure_without_a_goal_is_met() -> None:
    assert Figure(name="chirp", unit="MB/s", ours=(1.0,), peer=(9.0,)).is_met


def test_where_less_is_better_a_ratio_has_a_most() -> None:
    figure = Figure(name="exec", unit="ms", ours=(9.0, 12.0), peer=(4.0, 4.0), most=2.5)

    assert not figure.is_met
    assert render(figure).split()[-4:] == ["2.62", "<=", "2.5", "MISSED"]
    assert Figure(name="exec", unit="ms", ours=(9.0,), peer=(4.0,), most=2.5).is_met


def test_a_margin_is_by_how_much_ours_may_be_above_the_peers() -> None:
    figure = Figure(name="start", unit="s", ours=(10.4, 20.4, 5.9), peer=(10.0, 20.0, 5.0), margin=0.5)

    assert figure.is_met
    assert render(figure).split()[-4:] == ["<=", "+0.5", "s", "ok"]
    assert not Figure(name="start", unit="s", ours=(10.6,), peer=(10.0,), margin=0.5).is_met


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_a_percentile_is_a_value_that_was_seen(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return float(len(order))

    reached = alternate({"ours": lambda: contestant("ours"), "peer": lambda: contestant("peer")}, 2, "x/s")

    assert order == ["ours", "peer", "ours", "peer"]
    assert reached == {"ours": (1.0, 3.0), "peer": (2.0, 4.0)}
