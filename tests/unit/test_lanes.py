"""How many jobs a VM may have, without a database."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from adapters.ledger.lanes import JOBS_OF_A_CPU, JOBS_OF_A_VM, SLOTS_OF_A_CPU, Lanes
from schemas.jobs import MOST_LANES, Machine

VM = Machine(cpus=2, memory_mib=4096, disk_mib=8192, platform="linux/x86_64", slots=2)


def admitted(lanes: Lanes, *slots: int, said: int = 0) -> list[int | None]:
    return [lanes.admit(slot, said) for slot in slots]


def test_lanes_of_one_slot_wait_for_one_another_and_those_of_another_do_not() -> None:
    assert admitted(Lanes(VM, 2, []), 0, 1, 2, 4, 3) == [0, 0, 1, 2, 1]


def test_what_a_slot_has_counts_and_what_its_guest_says_beyond_it() -> None:
    lanes = Lanes(VM, 2, [0, 2, 1])

    assert admitted(lanes, 0, 1) == [2, 1]
    assert lanes.admit(2, 9) == 9


def test_a_lane_beyond_those_of_a_slot_is_none() -> None:
    assert admitted(Lanes(VM, 2, []), 2 * MOST_LANES - 1, 2 * MOST_LANES) == [0, None]


def test_an_idle_slot_is_served_though_the_others_have_taken_all_ahead_that_a_vm_may_have() -> None:
    """An honest VM of 32 slots whose jobs take 2 ms: sixteen slots hold 64 each."""
    wide = msgspec.structs.replace(VM, cpus=32, slots=32)
    held = [lane * 32 + place for place in range(16) for lane in range(MOST_LANES)]
    lanes = Lanes(wide, 32, held)

    assert admitted(lanes, 20, 20 + 32, 15, 31) == [0, None, None, 0]


def test_a_slot_that_its_vm_cannot_have_is_none_also_when_it_is_idle() -> None:
    few = Lanes(msgspec.structs.replace(VM, slots=64), 2, [])

    assert admitted(few, 2 * SLOTS_OF_A_CPU - 1, 2 * SLOTS_OF_A_CPU) == [0, None]


@given(
    claimed=st.integers(1, 1 << 40),
    slots=st.integers(1, 1024),
    reported=st.integers(1, 64),
    taken=st.lists(st.integers(0, 1023), max_size=50),
    asked=st.lists(st.integers(0, 1023), max_size=1200),
)
def test_whatever_a_guest_claims_its_vm_has_what_its_cpus_can_have(
    claimed: int, slots: int, reported: int, taken: list[int], asked: list[int]
) -> None:
    lanes = Lanes(msgspec.structs.replace(VM, cpus=claimed, slots=slots), reported, taken)

    given_to = [slot for slot in asked if lanes.admit(slot, 0) is not None]

    most = max(len(taken), min(reported * JOBS_OF_A_CPU, JOBS_OF_A_VM))
    first_of_a_slot = {slot % slots for slot in given_to} - {slot % slots for slot in taken}
    assert len(taken) + len(given_to) <= most + len(first_of_a_slot)
    assert len({slot % slots for slot in given_to}) <= reported * SLOTS_OF_A_CPU
