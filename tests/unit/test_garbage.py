"""How often daemons look for garbage."""

from __future__ import annotations

import subprocess
import sys


def test_a_process_looks_seldom_and_still_finds_cycles() -> None:
    program = (
        "import gc; from broker.daemon.garbage import collect_rarely; collect_rarely()\n"
        "class Knot:\n  def __init__(self): self.me = self\n"
        "import weakref; seen = weakref.ref(Knot())\n"
        "kept = [[] for _ in range(25_000)]\n"
        "print(gc.get_freeze_count() > 1000, gc.get_count()[0] < 20_001, seen() is None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
