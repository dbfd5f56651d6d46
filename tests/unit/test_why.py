"""Why a job is where it is: cause and next step go together, in every state and for every cause."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from adapters.ledger.outcomes import LOST_TOO_OFTEN
from adapters.ledger.why import Facts, explain
from schemas.ledger import AT_WORK, JobState

JOB = "site-a/j.1"
FULL = "No space left on device"


def facts(state: JobState, **more: object) -> Facts:
    return Facts(job=JOB, state=state, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", JobState)
def test_every_state_and_cause_has_a_cause_and_a_next_step(state: JobState) -> None:
    for reason, trouble, event, wait_s, lacking, stage_in_s, silent_s, failures in itertools.product(
        ("", "lost: its VM went away"),
        ("", FULL),
        ("", "started"),
        (0.0, 7.0),
        (None, [], ["cpus = 5: the VM has 4"]),
        (0.0, 60.0),
        (None, 0.0, 60.0),
        (0, 3),
    ):
        why = explain(
            facts(
                state,
                reason=reason,
                trouble=trouble,
                event=event,
                wait_s=wait_s,
                lacking=lacking,
                stage_in_s=stage_in_s,
                storage_silent_s=silent_s,
                failures=failures,
                most_failures=3,
            )
        )

        assert why.cause
        assert why.next_step
        assert not why.waiting_for or state is JobState.SUBMITTED


def test_a_job_that_was_lost_too_often_is_not_said_to_have_failed_too_often() -> None:
    reason = f"{LOST_TOO_OFTEN}: 5 times on 2 hosts, last: its VM went away"

    why = explain(facts(JobState.HELD, reason=reason, failures=1, losses=5, most_failures=3))

    assert why.cause == reason
    assert why.next_step == (
        f"held after 5 losses: look at the hosts that `volcloud job show {JOB}` names, then `volcloud job retry {JOB}`"
    )


@pytest.mark.parametrize("state", sorted(AT_WORK))
def test_a_job_in_trouble_is_not_told_to_wait_whatever_it_does(state: JobState) -> None:
    why = explain(facts(state, trouble=FULL, stage_in_s=600, storage_silent_s=0.0, event="started"))

    assert why.cause == FULL
    assert why.next_step.startswith("mend what it names; the job then goes on by itself")


def test_where_there_is_no_vm_none_is_said_to_be_too_small() -> None:
    why = explain(facts(JobState.SUBMITTED, lacking=None, event="submitted"))

    assert why.cause == "no VM has asked for work"
    assert why.waiting_for == ["a VM: none has asked for work yet"]
    assert why.next_step.startswith("start a VM:")


def test_a_job_that_waits_for_its_next_try_lacks_nothing_meanwhile() -> None:
    why = explain(facts(JobState.SUBMITTED, wait_s=7, lacking=["cpus = 5: the VM has 4"], reason="exit status 7"))

    assert (why.cause, why.waiting_for) == ("exit status 7", [])
    assert why.next_step.startswith("wait: it is tried again")


@pytest.mark.parametrize(("failures", "said"), [(1, "1 failure:"), (3, "3 failures:")])
def test_failures_are_counted_in_words(failures: int, said: str) -> None:
    held = facts(JobState.HELD, failures=failures, most_failures=failures)

    assert explain(held).next_step.startswith(f"held after {said}")
    assert "1 loss:" in explain(msgspec.structs.replace(held, most_failures=9, losses=1)).next_step


@pytest.mark.parametrize("silent_s", [None, 400.0])
def test_what_a_guest_complains_of_hides_no_storage_that_is_gone(silent_s: float | None) -> None:
    why = explain(facts(JobState.STAGE_IN, trouble=FULL, stage_in_s=500.0, storage_silent_s=silent_s))

    assert (why.cause, why.next_step.startswith("start a `storage_adapter`")) == (FULL, True)
