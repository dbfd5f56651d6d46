"""A tree of small files over the slow link: ours as one transfer, Chirp with round trips for each file, and rsync.

The console is on the far side, the guest's end beside the broker. Each push is timed as a process, its start and its
login included.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.alternation import alternate
from benchmarks.arena import Arena, serving
from benchmarks.figures import Figure
from benchmarks.link.network import NEAR
from benchmarks.tree import make_tree
from benchmarks.tree.ours import VM

#: Files of the tree and of a quick run's: Chirp takes 0.1 s for each.
FILES, QUICK_FILES = 1000, 200
#: How long a peer's push may take, seconds.
MOST_S = 600.0


def credentials(arena: Arena) -> tuple[Path, Path]:
    """Admit the guest and the console; give their credentials."""
    return arena.admit(VM), arena.admit("console-tree")


def run(there: list[str], arena: Arena, vm: Path, console: Path, ports: dict[str, int], *, quick: bool) -> list[Figure]:
    """Measure files a second from ``there``, in one run; ``ports`` are those of Chirp's server and rsync's."""
    files, names = QUICK_FILES if quick else FILES, map(str, count())
    source, target = make_tree(arena.directory / "tree", files), arena.directory / "trees"
    target.mkdir()
    tree = [sys.executable, "-m", "benchmarks.tree.ours"]
    pushes = {
        "ours": lambda name: [*tree, "send", str(console), str(source), name],
        "chirp": lambda name: ["chirp_put", "-a", "address", str(source), f"{NEAR}:{ports['chirp']}", f"/{name}"],
        "rsync": lambda name: ["rsync", "-a", f"{source}/", f"rsync://{NEAR}:{ports['rsync']}/received/{name}/"],
    }

    def timed(push: Callable[[str], list[str]]) -> float:
        return files / _took_s([*there, *push(next(names))])

    with serving([*tree, "receive", str(vm), str(target)], arena.directory / "link-tree.log"):
        reached = alternate({name: partial(timed, push) for name, push in pushes.items()}, 1, "files/s")
    beside = partial(Figure, unit="files/s", ours=reached["ours"])
    return [
        beside(name="tree over the link, beside Chirp", peer=reached["chirp"], goal=10.0),
        beside(name="tree over the link, beside rsync", peer=reached["rsync"]),
    ]


def _took_s(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=MOST_S)
    return time.perf_counter() - began
