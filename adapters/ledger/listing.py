"""Pages of jobs, newest first, with the counts of all that were asked for.

A page is read from the index of what is asked (one submission's, one owner's, or all jobs) a state at a time, and the
counts are the tallies', so neither takes longer for there being more jobs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Column, Row, Select, and_, bindparam, select

from adapters.ledger import tables, tallies
from adapters.ledger.orders import selector
from adapters.ledger.records import job_row
from adapters.ledger.transaction import Tx, portions
from schemas.ids import JobRef, job_ref
from schemas.ledger import JobList, Jobs

_jobs, _attempts, _submissions = tables.jobs, tables.attempts, tables.submissions

ROWS = select(
    _jobs,
    _attempts.c.vm,
    _attempts.c.started_ms,
    _attempts.c.assigned_ms,
).select_from(
    _jobs.outerjoin(_attempts, and_(_attempts.c.job == _jobs.c.number, _attempts.c.attempt == _jobs.c.attempt))
)
_BY_NUMBER = ROWS.where(_jobs.c.number.in_(bindparam("numbers", expanding=True))).order_by(_jobs.c.number.desc())
_BY_REF = ROWS.where(_jobs.c.ref.in_(bindparam("refs", expanding=True))).order_by(_jobs.c.number.desc())
_NAMED = select(_submissions.c.number, _submissions.c.owner).where(_submissions.c.id == bindparam("of_id"))
#: Above every job's number.
_NEWEST = (1 << 63) - 1


def _newest_first(*conditions: Any) -> Select[Any]:
    below = _jobs.c.number < bindparam("below")
    return select(_jobs.c.number).where(*conditions, below).order_by(_jobs.c.number.desc()).limit(bindparam("most"))


def _in_state(column: Column[Any]) -> Select[Any]:
    return _newest_first(column == bindparam("whose"), _jobs.c.state == bindparam("in_state"))


_ALL = _newest_first()
_OF_OWNER = _in_state(_jobs.c.owner)
_OF_SUBMISSION = _in_state(_jobs.c.submission)


class Line(NamedTuple):
    """Jobs of one state, of one owner or submission, in order of their numbers; with neither, all that there are."""

    statement: Select[Any]
    whose: str | int | None
    state: str


def list_jobs(tx: Tx, message: JobList, owner: str = "") -> Jobs:
    """List jobs, newest first, and count by state all that were asked for, beyond the page as well.

    ``owner`` confines a site to its own jobs; empty for a console. Raises NotFound for a malformed name only.
    """
    named, job_id, index = selector(message.job)
    owners = {owner, message.owner, named} - {""}
    states = frozenset(state.value for state in message.states)
    if len(owners) > 1:
        return Jobs(call=message.id, jobs=[])
    if not job_id:
        counts, lines = _of_owner(tx, next(iter(owners), ""), states)
        return _page(tx, message, counts, lines)
    found = [(row.number, row.owner) for row in tx.execute(_NAMED, {"of_id": job_id}) if owners <= {row.owner}]
    if index:
        return _single(tx, message, [job_ref(whose, job_id, index) for _, whose in found], states)
    counts = _chosen(tallies.of_submissions(tx, [number for number, _ in found]), states)
    return _page(tx, message, counts, [Line(_OF_SUBMISSION, number, s) for number, _ in found for s in counts])


def _of_owner(tx: Tx, owner: str, states: Collection[str]) -> tuple[dict[str, int], list[Line]]:
    if owner:
        counts = _chosen(tallies.of_owner(tx, owner), states)
        return counts, [Line(_OF_OWNER, owner, state) for state in counts]
    counts = _chosen(tallies.of_all(tx), states)
    if not states:
        return counts, [Line(_ALL, None, "")]
    # An index of all jobs' states alone would tempt SQLite away from the order of service, which matching reads.
    return counts, [Line(_OF_OWNER, whose, state) for whose, state in tallies.owners(tx, counts)]


def _chosen(counts: Mapping[str, int], states: Collection[str]) -> dict[str, int]:
    return {state: count for state, count in counts.items() if not states or state in states}


def _page(tx: Tx, message: JobList, counts: dict[str, int], lines: Iterable[Line]) -> Jobs:
    below = _NEWEST if message.before is None else message.before
    numbers = [_numbers(tx, line, below, message.limit) for line in lines]
    chosen = list(islice(merge(*numbers, reverse=True), message.limit))
    rows = [row for some in portions(chosen) for row in tx.execute(_BY_NUMBER, {"numbers": some})]
    return Jobs(call=message.id, jobs=[job_row(row) for row in rows], counts=counts)


def _numbers(tx: Tx, line: Line, below: int, most: int) -> list[int]:
    values = {"whose": line.whose, "in_state": line.state, "below": below, "most": most}
    asked = {name: value for name, value in values.items() if value not in (None, "")}
    return list(tx.execute(line.statement, asked).scalars())


def _single(tx: Tx, message: JobList, refs: list[JobRef], states: Collection[str]) -> Jobs:
    below = _NEWEST if message.before is None else message.before
    rows = [row for row in tx.execute(_BY_REF, {"refs": refs}) if not states or row.state in states]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    shown: list[Row[Any]] = [row for row in rows if row.number < below][: message.limit]
    return Jobs(call=message.id, jobs=[job_row(row) for row in shown], counts=counts)
