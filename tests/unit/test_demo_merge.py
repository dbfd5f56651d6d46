"""Merging the demo's results: what adds up, what is refused, what is drawn."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pythia"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pythia_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


merge, generate = load("merge"), load("generate")


def result(seed: int, counts: list[int]) -> dict[str, Any]:
    return {"seed": seed, **generate.summarize(counts)}


def test_two_results_merge_to_what_all_their_events_give() -> None:
    merged = merge.merge([result(1, [18, 20]), result(2, [20, 26])])

    assert merged.events == 4
    assert merged.mean == 21.0
    assert merged.spread == pytest.approx(math.sqrt((9 + 1 + 1 + 25) / 3))
    assert merged.error == pytest.approx(merged.spread / 2)
    assert merged.histogram == {18: 1, 20: 2, 26: 1}
    assert merged.means == {1: 19.0, 2: 23.0}


def test_the_order_of_the_results_does_not_matter() -> None:
    parts = [result(1, [18, 20]), result(2, [22]), result(3, [4, 4, 30])]

    assert merge.merge(parts) == merge.merge(parts[::-1])


def test_a_seed_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        merge.merge([result(1, [18]), result(1, [18])])


def test_no_events_are_refused() -> None:
    with pytest.raises(ValueError, match="no events"):
        merge.merge([])


def test_bins_between_the_first_and_the_last_are_shown_though_empty() -> None:
    assert merge.bins({4: 2, 10: 1}) == [(4, 2), (6, 0), (8, 0), (10, 1)]


def test_the_histogram_in_text_marks_the_bin_of_the_measured_mean() -> None:
    lines = merge.render_text(merge.merge([result(1, [18, 20, 20, 22])]))

    assert [line for line in lines if "LEP" in line] == [lines[2]]
    assert lines[2].startswith("     20         2  " + "█" * 60)


def test_the_result_is_said_beside_the_measured_one() -> None:
    said = "\n".join(merge.describe(merge.merge([result(1, [20, 22])])))

    assert "21.00 ± 1.00" in said
    assert "20.76 ± 0.16" in said


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("PIL")

    merge.draw(merge.merge([result(1, [6, 18, 20, 20, 22, 50])]), tmp_path / "histogram.png")

    assert (tmp_path / "histogram.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("most", "expected"), [(1, [0, 1]), (5, [0, 1, 2, 3, 4, 5]), (542, [0, 200, 400])])
def test_ticks_are_few_and_round(most: int, expected: list[int]) -> None:
    assert merge.ticks(most) == expected
