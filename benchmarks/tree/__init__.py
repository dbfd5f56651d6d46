"""Trees: a thousand small files as one push, beside rsync's daemon and Chirp's recursive put, all on loopback.

Ours goes through the broker, hashes on both ends, and is durable under its name at the end. The peers hash nothing and
sync nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.alternation import alternate
from benchmarks.arena import Arena, measure, serving
from benchmarks.figures import Figure
from benchmarks.transfer.chirp_peer import chirp_server
from benchmarks.tree.peers import chirp_put, rsync_daemon, rsync_push

#: Files of the tree and of a quick run's, and what each holds, bytes.
FILES, QUICK_FILES, FILE_BYTES = 1000, 200, 4096


def run(arena: Arena, *, runs: int, quick: bool) -> list[Figure]:
    """Measure files a second, from the first directory read until the receiver has all."""
    place = arena.directory / "tree"
    source = make_tree(place / "source", QUICK_FILES if quick else FILES)
    credentials = str(arena.admit("vm-tree")), str(arena.admit("console-tree"))
    names = map(str, count())
    (place / "ours").mkdir()
    with chirp_server(place / "chirp") as chirp, rsync_daemon(place / "rsync") as rsync:
        receive = [sys.executable, "-m", "benchmarks.tree.ours", "receive", credentials[0], str(place / "ours")]
        with serving(receive, arena.directory / "tree-ours.log"):
            contestants: dict[str, Callable[[], float]] = {
                "ours": lambda: _ours(arena, credentials[1], source, next(names)),
                "rsync": partial(_peer, lambda name: rsync_push(source, rsync, name), source, names),
                "chirp": partial(_peer, lambda name: chirp_put(source, chirp, name), source, names),
            }
            reached = alternate(contestants, runs, "files/s")
    shutil.rmtree(place)
    beside = partial(Figure, unit="files/s", ours=reached["ours"])
    return [
        beside(name="tree, beside Chirp (no digest, no sync)", peer=reached["chirp"], goal=1.0),
        beside(name="tree, beside rsync (no digest, no sync)", peer=reached["rsync"]),
    ]


def make_tree(path: Path, files: int) -> Path:
    """Make a tree of small files of random bytes, a hundred in a directory."""
    for number in range(files):
        directory = path / f"d{number // 100}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(FILE_BYTES))
    return path


def _ours(arena: Arena, console: str, source: Path, name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.tree.ours", "send", console, str(source), name]
    return _files(source) / measure(command, arena.directory / "tree-ours.log")[0]


def _peer(push: Callable[[str], float], source: Path, names: map[str]) -> float:
    return _files(source) / push(next(names))


def _files(source: Path) -> int:
    return sum(path.is_file() for path in source.rglob("*"))
