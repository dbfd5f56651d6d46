"""``python -m benchmarks [NAME …] [--quick] [--json FILE]``: exits 1 when a goal is missed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.alternation import say
from benchmarks.arena import open_arena
from benchmarks.figures import Figure, header, render
from benchmarks.machine import describe

#: What meets its peers on a broker, and what needs none.
ON_BROKER = ("rpc", "jobs", "executor", "transfer", "tree", "exec", "vm", "road", "grids")
ALONE = ("ledger", "link", "stage_in", "boinc")
NAMES = (*ON_BROKER, *ALONE)
RUNS, QUICK_RUNS = 5, 1


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="one short run of each, to see that it works")
    parser.add_argument("--runs", type=int, help=f"alternating runs; {RUNS}, or {QUICK_RUNS} with --quick")
    parser.add_argument("--json", type=Path, help="write every run's figure there")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    figures = _run(given.names or list(NAMES), given.runs or (QUICK_RUNS if given.quick else RUNS), given.quick)
    if given.json:
        given.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    return 0 if all(figure.is_met for figure in figures) else 1


def _run(names: list[str], runs: int, quick: bool) -> list[Figure]:
    figures = _alone([name for name in names if name in ALONE], quick)
    if len(names) > len(set(names) & set(ALONE)):
        figures += _on_broker([name for name in names if name in ON_BROKER], runs, quick)
    return figures


def _alone(names: list[str], quick: bool) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        found = import_module(f"benchmarks.{name}").run(quick=quick)
        print("\n".join([header(), *map(render, found)]), flush=True)
        figures += found
    return figures


def _on_broker(names: list[str], runs: int, quick: bool) -> list[Figure]:
    figures: list[Figure] = []
    with open_arena() as arena:
        print("\n".join(describe(arena.directory, arena.rabbitmq)), flush=True)
        print(f"runs      {runs}, in turns; medians\n\n{header()}", flush=True)
        for name in names:
            say(f"{name} …")
            run: Callable[..., list[Figure]] = import_module(f"benchmarks.{name}").run
            found = run(arena, runs=runs, quick=quick)
            print("\n".join(map(render, found)), flush=True)
            figures += found
    return figures


if __name__ == "__main__":
    sys.exit(main())
