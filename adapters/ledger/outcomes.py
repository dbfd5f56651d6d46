"""What the end of an attempt means for its job. Pure: no SQL, no clock.

The payload's failures and the losses of its VM are counted apart: a job that fails ``attempts`` times is held, one that
is lost too often is held as well, sooner where not one host alone is to blame, since a payload can kill its VM. What
is tried again waits first, longer each time, and is for other VMs at first.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from adapters.ledger.policy import Policy
from broker.backoff import backoff
from schemas.jobs import Outcome
from schemas.ledger import JobState

#: Reason of jobs whose VMs went away under them too often.
LOST_TOO_OFTEN = "lost_too_often"
#: Attempts that may be given back before a job waits for its next one, as after losses.
FREE_RETURNS = 10


class Standing(NamedTuple):
    """Where a job stands: its state and what has been counted against it."""

    state: JobState
    failures: int
    losses: int
    #: Hosts on which its VMs were lost, each once.
    lost_on: frozenset[str]
    #: Why it is held, or why its last attempt ended badly; empty when all is well.
    reason: str
    #: How often it was given back unbegun.
    returns: int = 0
    #: How long it waits before it is tried again, seconds; then it is for other VMs than this one for a while.
    wait_s: float = 0.0
    avoid_vm: str = ""
    avoid_s: float = 0.0


class AttemptPlace(NamedTuple):
    """Where an attempt was."""

    vm: str
    host: str


def retry_wait_s(nth: int, policy: Policy) -> float:
    """Draw the wait before a job is tried again that has gone wrong ``nth`` times: growing bounds, jittered."""
    waits = backoff(policy.first_retry_s, policy.longest_retry_s)
    return next(islice(waits, max(0, nth - 1), None)) if policy.first_retry_s else 0.0


def after_loss(job: Standing, place: AttemptPlace, cause: str, policy: Policy) -> Standing:
    """Let a job wait again after its VM was lost; hold it when that happened too often.

    Losses on one host alone hold a job later: that host is the likelier culprit, and ``lost_on`` names it.
    """
    lost_on = job.lost_on | ({place.host} if place.host else set())
    losses = job.losses + 1
    job = job._replace(losses=losses, lost_on=lost_on)
    limit = policy.loss_limit if len(lost_on) >= policy.loss_hosts else policy.loss_limit_anywhere
    if losses >= limit:
        where = "1 host" if len(lost_on) == 1 else f"{len(lost_on)} hosts"
        reason = f"{LOST_TOO_OFTEN}: {losses} times on {where}, last: {cause}"
        return job._replace(state=JobState.HELD, reason=reason)
    return _again(job, losses, place, policy)._replace(reason=cause)


def after_failure(job: Standing, place: AttemptPlace, limit: int, cause: str, policy: Policy) -> Standing:
    """Count a failure of the payload: the job waits again until it has failed ``limit`` times, then it is held."""
    failures = job.failures + 1
    job = job._replace(failures=failures, reason=cause)
    return job._replace(state=JobState.HELD) if failures >= limit else _again(job, failures, place, policy)


def after_return(job: Standing, place: AttemptPlace, policy: Policy) -> Standing:
    """Let a job wait again that its guest never began: for others at first, and it is not handed round for ever."""
    job = job._replace(returns=job.returns + 1)
    again = _again(job, job.returns - FREE_RETURNS, place, policy)
    return again if job.returns > FREE_RETURNS else again._replace(wait_s=0.0, avoid_s=policy.avoid_return_s)


def _again(job: Standing, nth: int, place: AttemptPlace, policy: Policy) -> Standing:
    wait_s = retry_wait_s(nth, policy)
    return job._replace(state=JobState.SUBMITTED, wait_s=wait_s, avoid_vm=place.vm, avoid_s=policy.avoid_s)


def after_completion(
    job: Standing, outcome: Outcome, place: AttemptPlace, *, limit: int, cause: str, policy: Policy
) -> Standing:
    """Apply how a guest's attempt ended. It cannot end as cancelled: that is the ledger's to say, and said already."""
    if outcome is Outcome.FAILED:
        return after_failure(job, place, limit, cause, policy)
    if outcome is Outcome.DONE:
        return job._replace(state=JobState.DONE, reason="")
    if outcome is Outcome.LOST:
        return after_loss(job, place, cause, policy)
    return after_return(job, place, policy)


def after_revival(job: Standing, phase: JobState) -> Standing:
    """Take back a loss: the attempt that was given up has shown itself before the job was assigned again."""
    return job._replace(state=phase, losses=max(0, job.losses - 1), reason="")
