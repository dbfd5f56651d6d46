"""The table of a VM's life: every pair of verb and state has one answer, and no state is a trap."""

from __future__ import annotations

import itertools

import pytest

from host_agent.verbs import TRANSITIONS, goal_of, is_done, is_legal
from host_agent.vm import Verb
from schemas.vms import VmState

PAIRS = list(itertools.product(Verb, VmState))

#: States that last until something is done; the others pass.
LASTING = {
    *(VmState.POWEREDOFF, VmState.RUNNING, VmState.PAUSED, VmState.SAVED, VmState.ABORTED, VmState.STUCK),
    *(VmState.SET_ASIDE, VmState.MISSING),
}


def test_every_verb_has_exactly_one_row():
    assert set(TRANSITIONS) == set(Verb)


@pytest.mark.parametrize(("verb", "state"), PAIRS)
def test_a_verb_is_done_legal_or_refused_and_done_wins(verb, state):
    transition = TRANSITIONS[verb]

    assert is_done(verb, state) == (state in transition.done_in)
    assert is_legal(verb, state) == (state in transition.legal_from)


@pytest.mark.parametrize("state", [state for state in VmState if state is not VmState.ABSENT])
def test_poweroff_is_legal_wherever_a_vm_exists(state):
    assert is_legal(Verb.POWEROFF, state)


#: Verbs that are not over once the VM is in some state: a step, or about something beside it.
STEPS = {Verb.RESET, Verb.TAKE_SNAPSHOT, Verb.RESTORE_SNAPSHOT, Verb.DELETE_SNAPSHOT}


@pytest.mark.parametrize("verb", [verb for verb in Verb if verb not in STEPS])
def test_a_verb_that_is_repeated_in_its_goal_succeeds(verb):
    goal = TRANSITIONS[verb].goal

    assert goal is not None
    assert is_done(verb, goal)


@pytest.mark.parametrize("verb", sorted(STEPS))
def test_a_step_is_never_done_already(verb):
    assert not TRANSITIONS[verb].done_in


@pytest.mark.parametrize("state", sorted(VmState))
@pytest.mark.parametrize("verb", [Verb.TAKE_SNAPSHOT, Verb.DELETE_SNAPSHOT])
def test_what_only_keeps_or_forgets_a_snapshot_leaves_the_vm_what_it_is(verb, state):
    assert goal_of(verb, state) is state


@pytest.mark.parametrize("verb", [verb for verb in Verb if verb is not Verb.CREATE])
def test_nothing_but_creation_starts_from_an_absent_vm(verb):
    assert not is_legal(verb, VmState.ABSENT)


@pytest.mark.parametrize("state", sorted(LASTING))
def test_every_lasting_state_leads_to_running_and_to_absent(state):
    assert VmState.RUNNING in reachable(state)
    assert VmState.ABSENT in reachable(state)


@pytest.mark.parametrize("verb", Verb)
def test_a_row_starts_and_ends_in_lasting_states_or_is_for_emergencies(verb):
    transition = TRANSITIONS[verb]

    assert transition.goal is None or transition.goal in LASTING | {VmState.ABSENT}
    assert verb is Verb.POWEROFF or transition.legal_from <= LASTING | {VmState.ABSENT}


def test_what_makes_a_new_or_older_guest_raises_the_generation():
    raising = {verb for verb, transition in TRANSITIONS.items() if transition.raises_generation}

    assert raising == {Verb.START, Verb.RESET, Verb.RESTORE_SNAPSHOT}


def reachable(state: VmState) -> set[VmState]:
    found = {state}
    while grown := {goal_of(verb, s) for verb in Verb for s in found if is_legal(verb, s)} - found:
        found |= grown
    return found
