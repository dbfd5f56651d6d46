"""Which part of a system is to blame when a command cannot reach it."""

from __future__ import annotations

from pathlib import Path

from volcloud.centre.health import LOOK_S, Trouble, at_a_glance, since
from volcloud.centre.layout import Layout
from volcloud.errors import Failure
from volcloud.rendering.words import ago, clock


def blamed(failure: Failure, directory: Path) -> Failure:
    """Add to what a command says of a system that it cannot reach which of its parts is to blame."""
    layout = Layout(directory)
    found = since(layout, at_a_glance(layout))
    if not found:
        return failure
    message = "; ".join([failure.message, *(_told(one) for one in found)])
    return Failure(failure.exit_status, message, "; ".join(one.mend for one in found))


def _told(trouble: Trouble) -> str:
    """Tell a trouble and since when; one that the supervisor has not seen yet is as young as its last look."""
    when = f"since {clock(trouble.since_ms)}, {ago(trouble.since_ms)}" if trouble.since_ms else f"within {LOOK_S:.0f} s"
    return f"{trouble.part} {trouble.what} ({when})"
