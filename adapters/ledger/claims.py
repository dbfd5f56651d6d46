"""Which files of the store the ledger needs, for whoever clears the store: what no row points to may go.

Reads, but for ``removed``. A store knows by ``identity`` whose it is: another ledger's files are never judged by this
one, which knows none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, select, tuple_

from adapters.ledger import attempts, tables
from adapters.ledger.attempts import Held
from adapters.ledger.deliveries import IS_TOLD
from adapters.ledger.transaction import Tx, portions
from schemas.ids import JobRef

_jobs, _removals, _inputs = tables.jobs, tables.removals, tables.inputs


class EndedJob(NamedTuple):
    """A job that has ended, and when, by the lease clock."""

    since_ms: int
    number: int
    ref: JobRef


class Removal(NamedTuple):
    """A deleted job whose outputs, up to this attempt, are still stored."""

    ref: JobRef
    attempt: int


def identity(tx: Tx) -> str:
    """Name this ledger, as no other is named."""
    return str(tx.execute(select(tables.identity.c.id)).scalar_one())


def unclaimed_attempts(tx: Tx, stored: Sequence[tuple[JobRef, int]], before_ms: int) -> list[tuple[JobRef, int]]:
    """Give those of these attempts whose files nobody will ask for: unknown ones, and those that ended without a
    completion, which another has followed, and whose lease had run out before ``before_ms``."""
    held = attempts.look_up(tx, stored)
    return [one for one in stored if one not in held or _is_given_up(held[one], before_ms)]


def _is_given_up(held: Held, before_ms: int) -> bool:
    is_old = held.ended_ms > 0 and held.lease_expires_ms < before_ms
    return is_old and not held.completion_id and not held.can_finish


def unclaimed_inputs(tx: Tx, digests: Sequence[str]) -> list[str]:
    """Give those of these inputs that no submission needs."""
    needed: set[str] = set()
    for some in portions(digests):
        needed |= set(tx.execute(select(_inputs.c.sha256).where(_inputs.c.sha256.in_(some)).distinct()).scalars())
    return [digest for digest in digests if digest not in needed]


def ended_first(tx: Tx, owner: str, after: EndedJob | None, most: int) -> list[EndedJob]:
    """List an owner's jobs that have ended, those first that ended first, beyond ``after``."""
    beyond = [] if after is None else [tuple_(_jobs.c.since_ms, _jobs.c.number) > tuple_(after.since_ms, after.number)]
    rows = (
        select(*(_jobs.c[name] for name in EndedJob._fields))
        .where(tables.HAS_ENDED, IS_TOLD, _jobs.c.owner == owner, *beyond)
        .order_by(_jobs.c.since_ms, _jobs.c.number)
        .limit(most)
    )
    return [EndedJob._make(row) for row in tx.execute(rows)]


def removals(tx: Tx, most: int) -> list[Removal]:
    """List deleted jobs whose outputs are to be removed."""
    rows = tx.execute(select(_removals.c.ref, _removals.c.attempt).order_by(_removals.c.ref).limit(most))
    return [Removal._make(row) for row in rows]


def removed(tx: Tx, done: Sequence[Removal]) -> None:
    """Take down that these have been removed; one that was deleted again meanwhile stays."""
    for some in portions(done):
        tx.execute(delete(_removals).where(tuple_(_removals.c.ref, _removals.c.attempt).in_(some)))
