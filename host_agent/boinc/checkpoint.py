"""How far a run of tasks has come, as BOINC's ``wrapper`` keeps it: tasks done, CPU time, running time."""

from __future__ import annotations

import math
from pathlib import Path

from msgspec import Struct

from broker import durable

NAME = "wrapper_checkpoint.txt"
_MOST_S = 1e12


class Checkpoint(Struct, frozen=True):
    """See the module; seconds."""

    tasks_done: int = 0
    cpu_s: float = 0.0
    runtime_s: float = 0.0

    def write(self, slot: Path) -> None:
        """Put it in its file. Raises OSError: then the one before stands."""
        text = f"{self.tasks_done} {self.cpu_s:f} {self.runtime_s:f}\n"
        durable.replace(slot / NAME, text.encode(), mode=0o644)


def read_checkpoint(slot: Path) -> Checkpoint | None:
    """Read it; None where there is none, or what is there is none: the run then begins anew. Raises OSError."""
    try:
        words = (slot / NAME).read_bytes()[:200].decode(errors="replace").split()
    except FileNotFoundError:
        return None
    try:
        # The wrapper before 2011 kept no running time.
        done, cpu_s, runtime_s = int(words[0]), float(words[1]), float(words[2]) if len(words) > 2 else 0.0
    except (ValueError, IndexError):
        return None
    if not (0 <= done < 1 << 31 and 0 <= cpu_s <= _MOST_S and 0 <= runtime_s <= _MOST_S) or math.isnan(cpu_s):
        return None
    return Checkpoint(done, cpu_s, runtime_s)
