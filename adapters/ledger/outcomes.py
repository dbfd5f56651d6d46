"""What the end of an attempt means for its job. Pure: no SQL, no clock.

The payload's failures and the losses of its VM are counted apart: a job that fails ``attempts`` times is held, one that
is lost too often, and not on one bad host alone, is held as well, since a payload can kill its VM.
"""

from __future__ import annotations

from typing import NamedTuple

from adapters.ledger.transaction import Policy
from schemas.jobs import Outcome
from schemas.ledger import JobState

#: Reason of jobs whose VMs went away under them too often.
LOST_TOO_OFTEN = "lost_too_often"


class Standing(NamedTuple):
    """Where a job stands: its state and what has been counted against it."""

    state: JobState
    failures: int
    losses: int
    #: Hosts on which its VMs were lost, each once.
    lost_on: frozenset[str]
    #: Why it is held, or why its last attempt ended badly; empty when all is well.
    reason: str
    cancel_requested: bool


def after_loss(job: Standing, host: str, cause: str, policy: Policy) -> Standing:
    """Let a job wait again after its VM was lost; hold it when that happened too often on enough hosts.

    Losses on one host alone never hold a job: that host is the likelier culprit, and ``lost_on`` names it. A job whose
    cancelling was asked for is cancelled instead: nobody is left to answer.
    """
    lost_on = job.lost_on | ({host} if host else set())
    losses = job.losses + 1
    state, reason = JobState.SUBMITTED, cause
    if job.cancel_requested:
        state = JobState.CANCELLED
    elif losses >= policy.loss_limit and len(lost_on) >= policy.loss_hosts:
        state, reason = JobState.HELD, f"{LOST_TOO_OFTEN}: {losses} times on {len(lost_on)} hosts, last: {cause}"
    return job._replace(state=state, losses=losses, lost_on=lost_on, reason=reason)


def after_failure(job: Standing, limit: int, cause: str) -> Standing:
    """Count a failure of the payload: the job waits again until it has failed ``limit`` times, then it is held."""
    failures = job.failures + 1
    state = JobState.HELD if failures >= limit else JobState.SUBMITTED
    if job.cancel_requested:
        state = JobState.CANCELLED
    return job._replace(state=state, failures=failures, reason=cause)


def after_return(job: Standing) -> Standing:
    """Let a job wait again that its guest never began; nothing is counted."""
    return job._replace(state=JobState.CANCELLED if job.cancel_requested else JobState.SUBMITTED)


def after_completion(job: Standing, outcome: Outcome, *, limit: int, host: str, cause: str, policy: Policy) -> Standing:
    """Apply what a guest says of its attempt's end. Done counts even when it crossed a cancel: the work is there."""
    if outcome is Outcome.FAILED:
        return after_failure(job, limit, cause)
    if outcome is Outcome.LOST:
        return after_loss(job, host, cause, policy)
    if outcome is Outcome.RETURNED:
        return after_return(job)
    if outcome is Outcome.CANCELLED:
        return job._replace(state=JobState.CANCELLED, reason=cause)
    return job._replace(state=JobState.DONE, reason="")


def after_revival(job: Standing, phase: JobState) -> Standing:
    """Take back a loss: the attempt that was given up has shown itself before the job was assigned again."""
    return job._replace(state=phase, losses=max(0, job.losses - 1), reason="")
