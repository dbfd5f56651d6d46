"""A tree of small files over the slow link: ours as one transfer, Chirp with round trips for each file, and rsync.

The console is on the far side, the guest's end beside the broker.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.alternation import alternate
from benchmarks.arena import Arena, measure, serving
from benchmarks.figures import Figure
from benchmarks.link.network import NEAR
from benchmarks.tree import make_tree
from benchmarks.tree.ours import VM

#: Files of the tree and of a quick run's: Chirp takes some 0.2 s for each.
FILES, QUICK_FILES = 200, 50
#: Runs: one of Chirp's takes most of a minute.
RUNS, QUICK_RUNS = 3, 1
#: How long a peer's push may take, seconds.
MOST_S = 600.0


def credentials(arena: Arena) -> tuple[Path, Path]:
    """Admit the guest and the console; give their credentials."""
    return arena.admit(VM), arena.admit("console-tree")


def run(there: list[str], arena: Arena, vm: Path, console: Path, ports: dict[str, int], *, quick: bool) -> list[Figure]:
    """Measure files a second from ``there``; ``ports`` are those of Chirp's server and rsync's."""
    files, names = QUICK_FILES if quick else FILES, map(str, count())
    source, target = make_tree(arena.directory / "tree", files), arena.directory / "trees"
    target.mkdir()
    log = arena.directory / "link-tree.log"
    tree = [sys.executable, "-m", "benchmarks.tree.ours"]

    def ours() -> float:
        return files / measure([*there, *tree, "send", str(console), str(source), next(names)], log)[0]

    chirp = ["chirp_put", "-a", "address", str(source), f"{NEAR}:{ports['chirp']}"]
    rsync = ["rsync", "-a", f"{source}/"]
    with serving([*tree, "receive", str(vm), str(target)], log):
        reached = alternate(
            {
                "ours": ours,
                "chirp": lambda: files / _timed([*there, *chirp, f"/{next(names)}"]),
                "rsync": lambda: (
                    files / _timed([*there, *rsync, f"rsync://{NEAR}:{ports['rsync']}/received/{next(names)}/"])
                ),
            },
            QUICK_RUNS if quick else RUNS,
            "files/s",
        )
    beside = partial(Figure, unit="files/s", ours=reached["ours"])
    return [
        beside(name="tree over the link, beside Chirp", peer=reached["chirp"], goal=10.0),
        beside(name="tree over the link, beside rsync", peer=reached["rsync"]),
    ]


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=MOST_S)
    return time.perf_counter() - began
