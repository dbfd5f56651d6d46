"""Commands in VMs as people read them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import RenderableType

from schemas.execs import ExecRow
from volcloud.rendering.words import ago, state, table


def render_execs(rows: Sequence[ExecRow], vms: Sequence[str] = ()) -> RenderableType:
    """Render a listing of commands; ``vms`` names the VM of each."""
    headers = ("ID", "WHO", "SINCE", "STATE", "EXIT STATUS", "DETACHED", "COMMAND")
    shown = table(*(["VM"] if vms else []), *headers)
    for number, row in enumerate(rows):
        status = "" if row.exit_status is None else str(row.exit_status)
        detached = "yes" if row.is_detached else "no"
        words = shlex.join(row.command)
        cells = (row.id, row.principal, ago(row.since_ms), state(row.state), status, detached, words)
        shown.add_row(*vms[number : number + 1], *cells)
    return shown
