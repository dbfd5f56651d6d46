"""Commands in VMs as people read them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import RenderableType

from schemas.execs import ExecRow
from volcloud.rendering.words import ago, state, table


def render_execs(rows: Sequence[ExecRow]) -> RenderableType:
    """Render a listing of commands."""
    shown = table("ID", "WHO", "SINCE", "STATE", "EXIT STATUS", "DETACHED", "COMMAND")
    for row in rows:
        status = "" if row.exit_status is None else str(row.exit_status)
        detached = "yes" if row.is_detached else "no"
        words = shlex.join(row.command)
        shown.add_row(row.id, row.principal, ago(row.since_ms), state(row.state), status, detached, words)
    return shown
