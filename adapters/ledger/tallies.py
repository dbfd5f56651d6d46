"""Tallies: how many jobs of each state an owner has, and each submission, kept with every change instead of counted.

Whoever changes a job's state says so here, in the same transaction; the sums are written at its end, a row a state.
On PostgreSQL each adapter adds to rows of its own, so that no writer waits for another; what is read is their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple
from zlib import crc32

from sqlalchemy import bindparam, delete, func, select

from adapters.ledger import tables
from adapters.ledger.transaction import Insert, Tx, insert_into, portions

_tallies = tables.tallies

#: Stands in the place of a submission in the rows that sum up all of an owner's jobs.
WHOLE_OWNER = 0
#: Rows of one owner, submission and state at most: adapters of which two share a row wait for each other, that is all.
SHARDS = 16

_OF_SUBMISSIONS = (
    select(_tallies.c.state, func.sum(_tallies.c.count))
    .where(_tallies.c.submission.in_(bindparam("submissions", expanding=True)))
    .group_by(_tallies.c.state)
)
_OF_OWNER = (
    select(_tallies.c.state, func.sum(_tallies.c.count))
    .where(_tallies.c.submission == WHOLE_OWNER, _tallies.c.owner == bindparam("of_owner"))
    .group_by(_tallies.c.state)
)
_OF_ALL = (
    select(_tallies.c.state, func.sum(_tallies.c.count))
    .where(_tallies.c.submission == WHOLE_OWNER)
    .group_by(_tallies.c.state)
)
_OWNERS = (
    select(_tallies.c.owner, _tallies.c.state)
    .where(_tallies.c.submission == WHOLE_OWNER, _tallies.c.state.in_(bindparam("states", expanding=True)))
    .group_by(_tallies.c.owner, _tallies.c.state)
    .having(func.sum(_tallies.c.count) > 0)
)
_FORGET = delete(_tallies).where(_tallies.c.submission.in_(bindparam("submissions", expanding=True)))


class Tallied(NamedTuple):
    """Whose jobs are counted, and in which state."""

    submission: int
    owner: str
    state: str


def add(tx: Tx, submission: int, owner: str, state: str, count: int = 1) -> None:
    """Count jobs that are in this state now and were not there before."""
    tx.tallied[Tallied(submission, owner, str(state))] += count


def move(tx: Tx, submission: int, owner: str, before: str, now: str, count: int = 1) -> None:
    """Count jobs that have gone from one state to another."""
    if before != now:
        add(tx, submission, owner, before, -count)
        add(tx, submission, owner, now, count)


def write(tx: Tx) -> None:
    """Write what was counted; the ledger ends every transaction with it."""
    changes: dict[Tallied, int] = {}
    for kind, count in tx.tallied.items():
        for one in (Tallied(*kind), Tallied(*kind)._replace(submission=WHOLE_OWNER)):
            changes[one] = changes.get(one, 0) + count
    tx.tallied.clear()
    rows = [{**kind._asdict(), "count": count} for kind, count in sorted(changes.items()) if count]
    if rows:
        tx.each(_upsert(tx.is_sqlite), [row | {"shard": _shard(tx)} for row in rows])


def _shard(tx: Tx) -> int:
    """An adapter's own row, after a reconnect and a restart as well. SQLite has one writer at a time."""
    return 0 if tx.is_sqlite else crc32(tx.instance.encode()) % SHARDS


def of_submissions(tx: Tx, submissions: Sequence[int]) -> dict[str, int]:
    """Count the jobs of submissions by state; states that none is in are left out."""
    found: dict[str, int] = {}
    for some in portions(submissions):
        for state, count in tx.execute(_OF_SUBMISSIONS, {"submissions": some}):
            found[state] = found.get(state, 0) + int(count)
    return _present(found.items())


def of_owner(tx: Tx, owner: str) -> dict[str, int]:
    """Count an owner's jobs by state."""
    return _present(tx.execute(_OF_OWNER, {"of_owner": owner}))


def of_all(tx: Tx) -> dict[str, int]:
    """Count all jobs by state."""
    return _present(tx.execute(_OF_ALL))


def owners(tx: Tx, states: Iterable[str]) -> list[tuple[str, str]]:
    """Name the owners that have jobs in these states, with each state."""
    return [(row.owner, row.state) for row in tx.execute(_OWNERS, {"states": list(states)})]


def forget(tx: Tx, submissions: Sequence[int]) -> None:
    """Drop the rows of submissions that are gone; what was said of them in this transaction still reaches the owner's.

    Call it after ``write``, or in a transaction that has said nothing of them.
    """
    for some in portions(submissions):
        tx.execute(_FORGET, {"submissions": some})


def _present(counts: Iterable[Any]) -> dict[str, int]:
    return {state: int(count) for state, count in counts if count}


@cache
def _upsert(is_sqlite: bool) -> Insert:
    statement = insert_into(_tallies, is_sqlite)
    return statement.on_conflict_do_update(
        index_elements=["submission", "owner", "state", "shard"],
        set_={"count": _tallies.c.count + statement.excluded.count},
    )
