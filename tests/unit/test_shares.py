"""A VM is divided among the jobs that run in it at once."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from adapters.ledger.shares import Capacity, Occupancy, is_large, need, share, total
from schemas.description import Requirements
from schemas.jobs import Machine

VM = Machine(cpus=4, memory_mib=8192, disk_mib=40_000, platform="linux/x86_64", slots=4)


def test_a_job_that_asks_for_nothing_has_a_cpu_and_its_slots_share() -> None:
    assert need(Requirements(), VM) == Capacity(1, 2048, 10_000)
    assert not is_large(Requirements(), VM)


def test_a_job_that_asks_for_no_memory_has_what_the_vms_owner_has_set() -> None:
    owners = msgspec.structs.replace(VM, usual_memory_mib=300)

    assert need(Requirements(), owners).memory_mib == 300
    assert need(Requirements(memory_mib=500), owners).memory_mib == 500


def test_a_job_that_asks_for_less_than_its_share_has_what_it_asks_for() -> None:
    assert need(Requirements(memory_mib=512, disk_mib=100), VM) == Capacity(1, 512, 100)


def test_a_job_that_asks_for_more_in_one_thing_is_large() -> None:
    assert is_large(Requirements(cpus=2), VM)
    assert is_large(Requirements(memory_mib=2049), VM)
    assert is_large(Requirements(disk_mib=10_001), VM)


def test_a_vm_with_more_slots_than_cpus_gives_each_slot_one() -> None:
    crowded = Machine(cpus=1, memory_mib=4000, disk_mib=4000, platform="linux/x86_64", slots=4)

    assert (total(crowded).cpus, share(crowded).cpus) == (4, 1)


def test_one_job_of_the_whole_vm_leaves_no_room() -> None:
    occupancy = Occupancy(total(VM), [(0, Capacity(4, 8192, 40_000))])

    assert not occupancy.fits(1, Capacity(1, 1, 1))
    assert occupancy.fits(0, Capacity(4, 8192, 40_000))


def test_a_slot_counts_its_largest_job() -> None:
    occupancy = Occupancy(
        total(VM), [(0, Capacity(2, 100, 100)), (0, Capacity(1, 3000, 100)), (1, Capacity(1, 100, 100))]
    )

    assert occupancy.fits(1, Capacity(2, 5192, 39_900))
    assert not occupancy.fits(1, Capacity(2, 5193, 100))
    assert not occupancy.fits(1, Capacity(3, 100, 100))


@given(
    asked=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4), st.integers(0, 8192), st.integers(0, 40_000))),
)
def test_whatever_is_asked_a_vm_is_never_given_twice(asked: list[tuple[int, int, int, int]]) -> None:
    occupancy, given_out = Occupancy(total(VM)), dict[int, list[Capacity]]()
    for lane, cpus, memory_mib, disk_mib in asked:
        slot, amount = (
            lane % VM.slots,
            need(Requirements(cpus=cpus, memory_mib=memory_mib, disk_mib=disk_mib), VM),
        )
        if occupancy.fits(slot, amount):
            occupancy.take(slot, amount)
            given_out.setdefault(slot, []).append(amount)

    at_once = [Capacity(*map(max, zip(*amounts, strict=True))) for amounts in given_out.values()]
    assert not Capacity(*(sum(column) for column in zip(*at_once, strict=True))).exceeds(total(VM)) if at_once else True


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_jobs_that_ask_for_no_more_than_a_share_always_fit_together(
    slots: int, cpus: int, memory_mib: int, disk_mib: int
) -> None:
    machine = Machine(cpus=cpus, memory_mib=memory_mib, disk_mib=disk_mib, platform="linux/x86_64", slots=slots)
    occupancy = Occupancy(total(machine))

    for slot in range(slots):
        assert occupancy.fits(slot, share(machine))
        occupancy.take(slot, share(machine))
