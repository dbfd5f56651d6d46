"""What time alone changes, by the lease clock: leases run out, agents fall silent, rests and waits end, requests age.

An adapter keeps it every few seconds. Each step is cheap when nothing is due, and two adapters may keep it at once.
What is due at once goes in portions, between which others write.
"""

from __future__ import annotations

from sqlalchemy import bindparam, select, update

from adapters.ledger import absences, arrays, leases, readiness, requests, tables
from adapters.ledger.transaction import PORTION, Tx

_jobs = tables.jobs

_IS_DUE = tables.IS_DELAYED & (_jobs.c.not_before_ms <= bindparam("now_ms"))
_DUE = select(_jobs.c.number).where(_IS_DUE).order_by(_jobs.c.not_before_ms).limit(PORTION)
# Said twice: what another transaction has changed meanwhile is judged anew by the outer condition alone.
_END_WAITS = update(_jobs).where(_jobs.c.number.in_(_DUE.scalar_subquery()), _IS_DUE).values(not_before_ms=0)


def keep(tx: Tx) -> bool:
    """Do what is due, a portion of each kind; says whether there may be more. ``match`` is the caller's.

    Arrays that are not whole are no part of that: ``tx.deferred`` has them, and no sweep waits until they are.
    """
    arrays.make_more(tx)
    done = [
        readiness.fall_silent(tx) / PORTION,
        absences.fall_silent(tx) / PORTION,
        leases.expire(tx) / leases.MOST_EXPIRED,
        readiness.end_rests(tx) / PORTION,
        end_waits(tx) / PORTION,
        requests.forget(tx, tx.lease_now_ms - int(tx.policy.request_life_s * 1000)) / PORTION,
    ]
    return max(done) >= 1


def end_waits(tx: Tx) -> int:
    """Let jobs that have waited long enough be tried again; gives how many."""
    return tx.execute(_END_WAITS, {"now_ms": tx.lease_now_ms}).rowcount
