"""An attempt's term: how long its guest may keep it, whatever it says of it. Pure; times are the lease clock's.

A guest must begin what it was given within ``begin_s``: an honest one gives back what would wait for more than a
second. What has begun may take its wall time and its grace, those of its validation, and what fetching inputs and
storing outputs may take. Time in which its VM was paused, or not heard, is added, up to the limit of pauses.
"""

from __future__ import annotations

from typing import NamedTuple

from adapters.ledger.policy import Policy
from schemas.description import JobDescription
from schemas.jobs import Phase


class Term(NamedTuple):
    """Until when an attempt may be kept, as far as that is known, and how much was added to it."""

    #: How long it may take from its begin; 0 = it has begun, or that is not said.
    may_take_ms: int
    over_ms: int
    stretched_ms: int = 0


def may_take_ms(job: JobDescription, policy: Policy) -> int:
    """Say how long a job may take once it has begun."""
    programs = 2 if job.validation else 1
    return int(1000 * (programs * (job.wall_time_s + job.grace_s) + policy.staging_s))


def given(may_take_ms: int, now_ms: int, policy: Policy) -> Term:
    """Give the term of an attempt that is assigned now."""
    return Term(may_take_ms, now_ms + int(policy.begin_s * 1000))


def begun(term: Term, now_ms: int) -> Term:
    """Give the term of an attempt that its guest begins now. It has one, however often it begins."""
    return term._replace(over_ms=now_ms + term.may_take_ms, may_take_ms=0) if term.may_take_ms else term


def storing(term: Term, now_ms: int, policy: Policy) -> Term:
    """Give the term of an attempt whose outputs alone are left to be stored."""
    return term._replace(over_ms=min(term.over_ms, now_ms + int(policy.staging_s * 1000)))


def stretched(term: Term, by_ms: int, policy: Policy) -> Term:
    """Add time that its guest did not have; no more of it than a pause may take, however often. No term stays none."""
    if not term.over_ms:
        return term
    more_ms = max(0, min(by_ms, policy.pause_limit_ms - term.stretched_ms))
    return term._replace(over_ms=term.over_ms + more_ms, stretched_ms=term.stretched_ms + more_ms)


def is_over(over_ms: int, paused_ms: int, now_ms: int, policy: Policy) -> bool:
    """Whether a term has ended; not while the VM is paused, which is added when it goes on."""
    is_excused = paused_ms > 0 and now_ms - paused_ms <= policy.pause_limit_ms
    return 0 < over_ms < now_ms and not is_excused


def why(vm: str, state: str, trouble: str, policy: Policy) -> str:
    """Say what its guest did with an attempt whose term has ended, and what it says of it."""
    if state == Phase.ASSIGNED:
        return f"{vm} has not begun it in {policy.begin_s:.0f} s{trouble and ': '}{trouble}"
    return f"{vm} has not ended it in the time that its wall time, its grace and its files may take"
