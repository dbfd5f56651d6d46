"""What is left of a source whose adapter is gone, in words: who forgets it reads what its grid would not hear of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, bindparam, func, select

from adapters.errors import SourceInUse
from adapters.ledger import tables
from adapters.ledger.deliveries import AFFIRM, ENDED
from adapters.ledger.transaction import Tx
from schemas.plain_text import plain

_jobs, _acquisitions, _deliveries = tables.jobs, tables.acquisitions, tables.deliveries
_takings = tables.takings

#: Jobs that are named, and characters of a grid's name of one.
MOST_NAMED, MOST_OF_A_NAME = 3, 80

_GIVEN = select(_acquisitions.c.id).where(_acquisitions.c.source == bindparam("of_source")).order_by(_acquisitions.c.id)
_TAKINGS = select(_takings.c.id).where(_takings.c.source == bindparam("of_source")).order_by(_takings.c.id)
_ENDS = (
    select(_jobs.c.ref)
    .join_from(_deliveries, _jobs, _jobs.c.number == _deliveries.c.job)
    .where(_deliveries.c.source == bindparam("of_source"))
    .order_by(_jobs.c.number)
)
#: What is left, and what is said of one job and of several.
_LEFT: tuple[tuple[Select[Any], str, str], ...] = (
    (
        _TAKINGS,
        "call may have taken jobs that are none here and wait there for nobody",
        "calls may have taken jobs that are none here and wait there for nobody",
    ),
    (_GIVEN, "job that it gave is none here yet", "jobs that it gave are none here yet"),
    (
        _ENDS.where(_deliveries.c.what == ENDED),
        "job has ended and it is not told so yet",
        "jobs have ended and it is not told so yet",
    ),
    (
        _ENDS.where(_deliveries.c.what == AFFIRM),
        "end was told it and is to be looked at once more",
        "ends were told it and are to be looked at once more",
    ),
)


def demand_none(tx: Tx, source: str) -> None:
    """Raise SourceInUse, with up to ``MOST_NAMED`` jobs of each kind, where something is left of a source."""
    said = [words for words in (_said(tx, source, *kind) for kind in _LEFT) if words]
    if not said:
        return
    give_up = f"`volcloud source delete {source} --give-up` forgets that, and its grid is told no more"
    then = f"start its adapter until that is done; or, if it is gone for good, {give_up}"
    raise SourceInUse(f"source = {source!r}: {'; '.join(said)}", then)


def named(jobs: Sequence[str]) -> str:
    """Name so many of some jobs; ``jobs`` need be no longer than one more."""
    few = [plain(job[:MOST_OF_A_NAME]) for job in jobs[:MOST_NAMED]]
    if len(jobs) > MOST_NAMED:
        return f"as {', '.join(few)}"
    return " and ".join(filter(None, (", ".join(few[:-1]), few[-1])))


def _said(tx: Tx, source: str, jobs: Select[Any], of_one: str, of_several: str) -> str:
    values = {"of_source": source}
    count = int(tx.execute(select(func.count()).select_from(jobs.subquery()), values).scalar_one())
    if not count:
        return ""
    few = tx.execute(jobs.limit(MOST_NAMED + 1), values).scalars().all()
    return f"{count} {of_one if count == 1 else of_several} ({named(few)})"
