"""Merge the results of several jobs: mean charged multiplicity with its error, and a histogram.

``python merge.py RESULT.json... [--json FILE] [--png FILE]``. The PNG needs Pillow; the rest, Python alone.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Mean charged multiplicity of hadronic Z decays as LEP and SLC measured it (Particle Data Group's average).
LEP_MEAN, LEP_ERROR = 20.76, 0.16
#: Events of one bin lie this many charged particles apart: charge is conserved, so odd numbers do not occur.
BIN = 2


@dataclass(frozen=True)
class Merged:
    """All events of all jobs together."""

    events: int
    mean: float
    #: Standard error of the mean.
    error: float
    #: Standard deviation of one event.
    spread: float
    #: Charged particles -> events.
    histogram: dict[int, int]
    #: Seed -> its own mean.
    means: dict[int, float]


def merge(results: Sequence[dict[str, Any]]) -> Merged:
    """Add results up. Raises ValueError when there is no event, or a seed comes twice: its events would count twice."""
    seeds = [result["seed"] for result in results]
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"a seed comes twice: {sorted(seeds)}")
    events = sum(result["events"] for result in results)
    if not events:
        raise ValueError("no events")
    total, squares = (sum(result[key] for result in results) for key in ("sum", "sum_of_squares"))
    mean = total / events
    spread = math.sqrt(max(0.0, squares - events * mean * mean) / max(1, events - 1))
    return Merged(
        events=events,
        mean=mean,
        error=spread / math.sqrt(events),
        spread=spread,
        histogram=add_histograms(result["histogram"] for result in results),
        means={result["seed"]: result["sum"] / result["events"] for result in results},
    )


def add_histograms(histograms: Iterable[dict[str, int]]) -> dict[int, int]:
    """Add histograms, bin by bin."""
    together: Counter[int] = Counter()
    for histogram in histograms:
        together.update({int(number): events for number, events in histogram.items()})
    return dict(sorted(together.items()))


def bins(histogram: dict[int, int]) -> list[tuple[int, int]]:
    """Give (charged particles, events) from the first bin to the last, empty ones between them included."""
    sums: Counter[int] = Counter()
    for number, events in histogram.items():
        sums[number - number % BIN] += events
    return [(number, sums[number]) for number in range(min(sums), max(sums) + BIN, BIN)] if sums else []


def render_text(merged: Merged, width: int = 60) -> list[str]:
    """Draw the histogram in lines of text."""
    rows = bins(merged.histogram)
    most = max(events for _, events in rows)
    lines = ["charged    events"]
    for number, events in rows:
        bar = "█" * round(width * events / most)
        mark = "  <- LEP's mean" if number <= LEP_MEAN < number + BIN else ""
        lines.append(f"{number:7d} {events:9d}  {bar or ('▏' if events else '')}{mark}")
    return lines


def describe(merged: Merged) -> list[str]:
    """Say the result in words."""
    return [
        f"{merged.events:,} hadronic Z decays at 91.188 GeV: mean charged multiplicity",
        f"  here  {merged.mean:.2f} ± {merged.error:.2f} (statistical)",
        f"  LEP   {LEP_MEAN:.2f} ± {LEP_ERROR:.2f} (measured)",
    ]


def draw(merged: Merged, target: Path) -> None:
    """Write the histogram as a PNG."""
    from PIL import Image, ImageDraw, ImageFont

    rows = bins(merged.histogram)
    most = max(events for _, events in rows)
    left, right, top, bottom = 90, 870, 90, 500
    step = (right - left) / len(rows)
    image = Image.new("RGB", (900, 580), "white")
    pen = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(16), ImageFont.load_default(22)
    pen.text((left, 18), f"Hadronic Z decays at 91.188 GeV, {merged.events:,} events (Pythia 8)", "black", large)
    means = f"mean {merged.mean:.2f} ± {merged.error:.2f}     LEP {LEP_MEAN} ± {LEP_ERROR}"
    pen.text((left, 50), means, "black", small)
    for index, (number, events) in enumerate(rows):
        x, y = left + index * step, bottom - (bottom - top) * events / most
        pen.rectangle((x + 1, y, x + step - 2, bottom), "#4878a8")
        if number % 10 == 0:
            pen.text((x + step / 2, bottom + 8), str(number), "black", small, anchor="ma")
    for events in ticks(most):
        y = bottom - (bottom - top) * events / most
        pen.line((left - 6, y, left, y), "black")
        pen.text((left - 10, y), str(events), "black", small, anchor="rm")
    x_lep = left + (LEP_MEAN - rows[0][0] + BIN / 2) / BIN * step
    pen.line((x_lep, top, x_lep, bottom), "#c03030", 2)
    pen.text((x_lep + 8, top), "LEP", "#c03030", small)
    pen.text((left - 10, top - 26), "events", "black", small, anchor="rm")
    pen.line((left, top, left, bottom, right, bottom), "black", 2)
    pen.text(((left + right) / 2, bottom + 38), "charged particles in the event", "black", small, anchor="ma")
    image.save(target)


def ticks(most: int) -> list[int]:
    """Choose at most six round numbers from 0 to ``most``."""
    rough = max(1, most / 5)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return list(range(0, most + 1, int(step)))


def main() -> None:
    """Merge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    parser.add_argument("--json", type=Path, help="write the merged figures there")
    parser.add_argument("--png", type=Path, help="write the histogram there")
    given = parser.parse_args()
    merged = merge([json.loads(path.read_text()) for path in given.results])
    if given.json:
        given.json.write_text(json.dumps(asdict(merged), indent=1) + "\n")
    if given.png:
        draw(merged, given.png)
    print("\n".join(["", *render_text(merged), "", *describe(merged)]))


if __name__ == "__main__":
    main()
