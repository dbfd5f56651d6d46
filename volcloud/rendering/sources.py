"""Sources as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from schemas.grids import SourceRow
from volcloud.rendering.words import ago, table


def render_sources(rows: Sequence[SourceRow]) -> RenderableType:
    """Render a listing of sources."""
    shown = table("SOURCE", "KIND", "SEEN", "ASKED", "GAVE JOBS", "FETCHING", "TO TELL", "HELD", "TROUBLE")
    for row in rows:
        counts = (str(row.acquired), str(row.owed), str(row.held))
        since = f" (since {ago(row.trouble_ms)})" if row.trouble else ""
        trouble = Text(f"{row.trouble}{since}" or "none", style="red" if row.trouble else "")
        moments = (ago(row.seen_ms), _when(row.asked_ms), _when(row.given_ms))
        shown.add_row(row.source, row.kind, *moments, *counts, trouble)
    return shown


def _when(moment_ms: int) -> str:
    return ago(moment_ms) if moment_ms else "never"
