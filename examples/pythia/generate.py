"""Generate e+ e- -> Z -> hadrons with Pythia 8 and count the charged particles of each event.

Runs with plain Python 3.11 and the pythia8mc wheel in its directory; writes result.json. A seed gives the same events
on every machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SETTINGS = (
    "Print:quiet = on",
    "Beams:idA = 11",
    "Beams:idB = -11",
    "Beams:eCM = 91.188",
    "PDF:lepton = off",
    "WeakSingleBoson:ffbar2gmZ = on",
    "23:onMode = off",
    "23:onIfAny = 1 2 3 4 5",
    "Random:setSeed = on",
)

#: Folders of the wheel that colliding electrons do not need, two thirds of it: protons' structure, the manual.
UNUSED = {"pdfdata", "pdfdoc", "htmldoc"}


def load_pythia(directory: Path) -> Any:
    """Unpack the wheel that lies in ``directory`` and import it; the generator finds its data by the environment."""
    unpacked = directory / "pythia"
    wheel = next(directory.glob("pythia8mc-*.whl"), None)
    if wheel is None:
        raise SystemExit(f"no pythia8mc wheel in {directory}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked, [name for name in archive.namelist() if not UNUSED & set(name.split("/"))])
    os.environ["PYTHIA8DATA"] = str(next(unpacked.rglob("xmldoc")))
    sys.path.insert(0, str(unpacked))
    import pythia8mc

    return pythia8mc


def start_generator(pythia8mc: Any, seed: int) -> Any:
    """Set the collision up."""
    generator = pythia8mc.Pythia(os.environ["PYTHIA8DATA"], False)
    for setting in (*SETTINGS, f"Random:seed = {seed}"):
        if not generator.readString(setting):
            raise SystemExit(f"Pythia does not take {setting!r}")
    if not generator.init():
        raise SystemExit("Pythia could not start")
    return generator


def multiplicities(generator: Any, events: int) -> Iterator[int]:
    """Give the number of charged particles in the final state of each event; one that fails is made again."""
    made = 0
    while made < events:
        if generator.next():
            made += 1
            yield sum(1 for particle in generator.event if particle.isFinal() and particle.isCharged())


def summarize(counts: list[int]) -> dict[str, Any]:
    """Reduce the events to what adds up over jobs."""
    return {
        "events": len(counts),
        "sum": sum(counts),
        "sum_of_squares": sum(n * n for n in counts),
        "histogram": {str(n): times for n, times in sorted(Counter(counts).items())},
    }


def main() -> None:
    """Write result.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--fraction", type=Path, help="file in which to say how much is done, from 0 to 1")
    given = parser.parse_args()
    began = time.monotonic()
    pythia8mc = load_pythia(Path.cwd())
    unpacked = time.monotonic()
    counts = []
    for count in multiplicities(start_generator(pythia8mc, given.seed), given.events):
        counts.append(count)
        if given.fraction and len(counts) % max(1, given.events // 100) == 0:
            given.fraction.write_text(f"{len(counts) / given.events}\n")
    times = {"unpack_s": round(unpacked - began, 3), "generate_s": round(time.monotonic() - unpacked, 3)}
    result = {"seed": given.seed, **summarize(counts), "times": times}
    Path("result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"seed {given.seed}: {len(counts)} events, mean {sum(counts) / len(counts):.3f}")


if __name__ == "__main__":
    main()
