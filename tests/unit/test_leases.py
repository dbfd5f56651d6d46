"""Leases and what the end of an attempt means, without a database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ledger.attempts import AttemptState, Held
from adapters.ledger.completions import judge
from adapters.ledger.inventory import paused_since
from adapters.ledger.leases import BeatVerdict, Lease, further, has_expired, word_on
from adapters.ledger.outcomes import (
    FREE_RETURNS,
    AttemptPlace,
    Standing,
    after_completion,
    after_failure,
    after_loss,
    after_return,
    after_revival,
    retry_wait_s,
)
from adapters.ledger.policy import Policy
from schemas.jobs import JobCompletion, Outcome, Phase
from schemas.ledger import JobState

POLICY = Policy(lease_s=90, pause_limit_s=1000, loss_limit=3, loss_hosts=2)
FRESH = Standing(JobState.RUNNING, 0, 0, frozenset(), "")
PLACE = AttemptPlace("vm-1", "host-1")


def held(**fields: object) -> Held:
    """An attempt that runs on vm-1."""
    plain = Held(
        number=1,
        submission=1,
        shape=1,
        ref="site-a/one.1",
        state="running",
        latest=1,
        failures=0,
        losses=0,
        lost_on="",
        reason="",
        submitted_ms=1,
        limit=1,
        array=1,
        attempt=1,
        vm="vm-1",
        host="host-1",
        slot=0,
        generation=1,
        request_id="r",
        attempt_state="running",
        seen_id="",
        completion_id="",
        assigned_ms=1,
        started_ms=0,
        ended_ms=0,
        lease_expires_ms=100,
        boot_id="",
    )
    return plain._replace(**fields)  # type: ignore[arg-type]


def ended(outcome: Outcome) -> JobCompletion:
    """What the guest says of it."""
    return JobCompletion(job="site-a/one.1", attempt=1, outcome=outcome)


@pytest.mark.parametrize(
    ("expires_ms", "paused_ms", "now_ms", "expired"),
    [
        (1000, 0, 999, False),
        (1000, 0, 1000, False),
        (1000, 0, 1001, True),
        (1000, 500, 1001, False),
        (1000, 500, 500 + 1_000_000, False),
        (1000, 500, 501 + 1_000_000, True),
    ],
)
def test_a_lease_runs_out_unless_a_pause_within_its_limit_excuses_it(
    expires_ms: int, paused_ms: int, now_ms: int, expired: bool
) -> None:
    assert has_expired(Lease(1, expires_ms, paused_ms), now_ms, POLICY) is expired


@pytest.mark.parametrize("phase", list(Phase))
def test_a_pause_excuses_only_what_has_begun(phase: Phase) -> None:
    has_begun = phase in (Phase.RUNNING, Phase.VALIDATING, Phase.STAGE_OUT)

    assert has_expired(Lease(1, 1000, 500, phase), 1001, POLICY) is not has_begun


@pytest.mark.parametrize(
    ("state", "before_ms", "since_ms"),
    [
        ("running", 0, 0),
        ("paused", 0, 700),
        ("saved", 300, 300),
        ("running", 300, 0),
        ("unknown", 300, 300),
        ("unknown", 0, 0),
        ("missing", 300, 300),
        ("missing", 0, 0),
        ("set_aside", 300, 300),
        ("poweredoff", 300, 0),
    ],
)
def test_a_pause_begins_once_and_a_host_that_cannot_tell_changes_nothing(
    state: str, before_ms: int, since_ms: int
) -> None:
    assert paused_since(state, before_ms, 700) == since_ms


EXPIRED = {"attempt_state": AttemptState.EXPIRED, "ended_ms": 5}


@pytest.mark.parametrize(
    ("attempt", "word"),
    [
        (held(), BeatVerdict(renews=True)),
        (None, BeatVerdict(stop="unknown_attempt")),
        (held(vm="vm-2"), BeatVerdict(stop="foreign_attempt")),
        (held(latest=2), BeatVerdict(stop="superseded")),
        (held(completion_id="c", ended_ms=5), BeatVerdict()),
        (held(completion_id="c", ended_ms=5, latest=2), BeatVerdict()),
        (held(state="cancelled", attempt_state="cancelled", ended_ms=5), BeatVerdict(stop="cancelled")),
        (held(state="submitted", attempt_state="returned", ended_ms=5), BeatVerdict(stop="superseded")),
        (held(state="cancelled", **EXPIRED), BeatVerdict(stop="cancelled")),
        (held(state="submitted", **EXPIRED), BeatVerdict(renews=True)),
        (held(state="held", **EXPIRED), BeatVerdict(renews=True)),
        (held(state="assigned", latest=2, **EXPIRED), BeatVerdict(stop="superseded")),
        (held(state="submitted", attempt_state="lost", ended_ms=5), BeatVerdict(stop="superseded")),
    ],
)
def test_a_beat_renews_what_lives_and_stops_what_does_not(attempt: Held | None, word: BeatVerdict) -> None:
    assert word_on(attempt, "vm-1") == word


@given(now=st.sampled_from(list(Phase)), said=st.sampled_from(list(Phase)))
def test_phases_only_go_on(now: Phase, said: Phase) -> None:
    order = list(Phase)

    assert order.index(further(now, said)) == max(order.index(now), order.index(said))


def test_an_expired_attempt_takes_the_phase_that_it_says() -> None:
    assert further("expired", Phase.STAGE_IN) is Phase.STAGE_IN


def test_a_loss_lets_the_job_wait_again_and_remembers_the_host() -> None:
    after = after_loss(FRESH, PLACE, "silence", POLICY)

    assert after._replace(wait_s=0) == Standing(
        JobState.SUBMITTED, 0, 1, frozenset({"host-1"}), "silence", avoid_vm="vm-1", avoid_s=POLICY.avoid_s
    )
    assert 0.1 <= after.wait_s <= 1


@given(nth=st.integers(1, 200))
def test_waits_grow_to_a_bound_and_are_jittered(nth: int) -> None:
    bound = min(POLICY.longest_retry_s, POLICY.first_retry_s * 2.0 ** (nth - 1))

    assert bound / 10 <= retry_wait_s(nth, POLICY) <= bound


@pytest.mark.parametrize(
    ("losses", "lost_on", "host", "state"),
    [
        (1, {"host-1"}, "host-2", JobState.SUBMITTED),
        (2, {"host-1"}, "host-1", JobState.SUBMITTED),
        (2, {"host-1"}, "host-2", JobState.HELD),
        (8, {"host-1"}, "host-1", JobState.SUBMITTED),
        (9, {"host-1"}, "host-1", JobState.HELD),
        (9, set(), "", JobState.HELD),
        (9, {"host-1", "host-2"}, "", JobState.HELD),
    ],
)
def test_losses_hold_a_job_sooner_where_not_one_host_alone_is_to_blame(
    losses: int, lost_on: set[str], host: str, state: JobState
) -> None:
    before = FRESH._replace(losses=losses, lost_on=frozenset(lost_on))

    after = after_loss(before, AttemptPlace("vm-1", host), "silence", POLICY)

    assert after.state is state
    assert after.reason.startswith("lost_too_often") is (state is JobState.HELD)


def test_a_failure_holds_the_job_at_its_limit_and_not_before() -> None:
    first = after_failure(FRESH, PLACE, 2, "bad", POLICY)
    second = after_failure(first, PLACE, 2, "worse", POLICY)

    assert (first.state, first.failures, first.reason) == (JobState.SUBMITTED, 1, "bad")
    assert (second.state, second.failures, second.reason) == (JobState.HELD, 2, "worse")


@given(outcome=st.sampled_from(list(Outcome)), failures=st.integers(0, 9), losses=st.integers(0, 9))
def test_no_guest_can_cancel_a_job(outcome: Outcome, failures: int, losses: int) -> None:
    before = FRESH._replace(failures=failures, losses=losses)

    after = after_completion(before, judge(held(), ended(outcome))[0], PLACE, limit=100, cause="x", policy=POLICY)

    assert after.state is not JobState.CANCELLED


def test_a_job_that_is_given_back_again_and_again_waits_at_last() -> None:
    waits, job = [], FRESH
    for _ in range(40):
        job = after_return(job, PLACE, POLICY)
        waits.append(job.wait_s)

    assert job.returns == 40
    assert waits[:FREE_RETURNS] == [0] * FREE_RETURNS
    assert all(waits[FREE_RETURNS:])


@given(outcome=st.sampled_from(list(Outcome)))
def test_failures_and_losses_are_counted_apart(outcome: Outcome) -> None:
    after = after_completion(FRESH, outcome, PLACE, limit=5, cause="x", policy=POLICY)

    assert after.failures == (outcome is Outcome.FAILED)
    assert after.losses == (outcome is Outcome.LOST)


def test_a_revival_takes_the_loss_back() -> None:
    lost = after_loss(FRESH, PLACE, "silence", POLICY)

    after = after_revival(lost, JobState.RUNNING)

    assert (after.state, after.losses, after.reason) == (JobState.RUNNING, 0, "")


@pytest.mark.parametrize(
    ("attempt", "counts"),
    [
        (held(), True),
        (held(state="submitted", **EXPIRED), True),
        (held(state="held", **EXPIRED), True),
        (held(state="submitted", attempt_state="lost", ended_ms=5), True),
        (held(state="submitted", attempt_state="lost", ended_ms=5, completion_id="c"), False),
        (held(state="submitted", attempt_state="failed", ended_ms=5), False),
        (held(state="cancelled", **EXPIRED), False),
        (held(state="assigned", latest=2, **EXPIRED), False),
    ],
)
def test_a_completion_counts_while_nobody_else_has_the_job(attempt: Held, counts: bool) -> None:
    assert attempt.can_finish is counts
