"""Sites, and other owners of jobs, as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from schemas.ledger import AT_WORK, JobState
from schemas.owners import OwnerRow
from volcloud.rendering.words import table


def render_owners(rows: Sequence[OwnerRow]) -> RenderableType:
    """Render a listing of owners."""
    shown = table("OWNER", "SHARE", "WAIT", "MAY WAIT", "AT WORK", "HELD", "DONE", "USED LATELY")
    for row in rows:
        at_work = sum(count for state, count in row.jobs.items() if state in AT_WORK)
        waits, held, done = (
            f"{row.jobs.get(JobState.SUBMITTED, 0):,}",
            f"{row.jobs.get(JobState.HELD, 0):,}",
            f"{row.jobs.get(JobState.DONE, 0):,}",
        )
        limit = f"{row.most_waiting:,}{'*' if row.is_limit_own else ''}"
        used = f"{row.used_s / 3600:,.1f} cpu-h"
        shown.add_row(row.owner, str(row.share), waits, limit, f"{at_work:,}", held, done, used)
    return shown
