"""Matching, without a database."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from adapters.ledger.classes import offer_key, shape_key
from adapters.ledger.known import MOST_DESCRIPTIONS, Known
from adapters.ledger.matching import Free, Waiting, assignment, nearest, pair, unmet
from schemas.description import JobDescription, Requirements
from schemas.jobs import Machine

MACHINE = Machine(cpus=2, memory_mib=2048, disk_mib=8192, platform="linux/x86_64", features=["avx"])


def waiting(number: int, rank: int = 0, shape: int = 1) -> Waiting:
    return Waiting(rank, number, shape, f"site-a/j{number}.1", 1, 0, number, 0)


def free(vm: str, offer: int = 1) -> Free:
    return Free(vm, 0, offer, f"request-of-{vm}", 1, 0, 0, "host-1", "fake", 0)


def test_requirements_that_ask_for_nothing_are_met_by_any_machine() -> None:
    assert unmet(Requirements(), MACHINE) == []


def test_a_machine_that_has_exactly_what_is_asked_may_have_the_job() -> None:
    asked = Requirements(cpus=2, memory_mib=2048, disk_mib=8192, platform="linux/x86_64", features=["avx"])

    assert unmet(asked, MACHINE) == []


def test_each_unmet_requirement_is_named_with_both_values() -> None:
    asked = Requirements(cpus=4, memory_mib=4096, disk_mib=9000, platform="linux/arm64", image="i", features=["gpu"])

    assert unmet(asked, MACHINE) == [
        "cpus = 4: the VM has 2",
        "memory_mib = 4096: the VM has 2048",
        "disk_mib = 9000: the VM has 8192",
        "platform = 'linux/arm64': the VM has 'linux/x86_64'",
        "image = 'i': the VM has 'none'",
        "feature 'gpu': the VM has avx",
    ]


def test_the_nearest_machine_is_the_one_that_lacks_least() -> None:
    poor = Machine(cpus=1, memory_mib=1, disk_mib=1, platform="")

    assert nearest(Requirements(cpus=4, memory_mib=1024), [poor, MACHINE]) == ["cpus = 4: the VM has 2"]
    assert nearest(Requirements(), [poor]) == []
    assert nearest(Requirements(), []) is None


def test_the_order_of_features_makes_no_new_class() -> None:
    assert shape_key(Requirements(features=["a", "b"])) == shape_key(Requirements(features=["b", "a", "b"]))
    assert shape_key(Requirements(features=["a"])) != shape_key(Requirements())


def test_a_boot_makes_no_new_class_of_machine() -> None:
    booted = Machine(**{name: getattr(MACHINE, name) for name in MACHINE.__struct_fields__} | {"boot_id": "b2"})

    assert offer_key(booted) == offer_key(MACHINE)


def test_the_job_of_lowest_rank_among_the_fitting_shapes_goes_first() -> None:
    queues = {1: iter([waiting(1), waiting(2)]), 2: iter([waiting(9, rank=-5, shape=2)])}

    pairs = list(pair([free("a"), free("b"), free("c")], queues, lambda shape, offer: True))

    assert [(job.number, slot.vm) for job, slot in pairs] == [(9, "a"), (1, "b"), (2, "c")]


def test_a_slot_that_fits_nothing_is_passed_over() -> None:
    pairs = list(pair([free("a", offer=7), free("b")], {1: iter([waiting(1)])}, lambda shape, offer: offer == 1))

    assert [(job.number, slot.vm) for job, slot in pairs] == [(1, "b")]


def test_no_more_is_read_than_is_paired() -> None:
    read: list[int] = []

    def jobs() -> Iterator[Waiting]:
        for number in range(100):
            read.append(number)
            yield waiting(number)

    list(pair([free("a"), free("b")], {1: jobs()}, lambda shape, offer: True))

    assert len(read) <= 3


jobs_of_shapes = st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 3)), max_size=12)
offers_of_slots = st.lists(st.integers(1, 3), max_size=12)


@given(jobs=jobs_of_shapes, offers=offers_of_slots, fitting=st.sets(st.tuples(st.integers(1, 3), st.integers(1, 3))))
def test_nothing_is_paired_twice_and_nothing_that_fits_is_left(
    jobs: list[tuple[int, int]], offers: list[int], fitting: set[tuple[int, int]]
) -> None:
    waits = [waiting(number, rank, shape) for number, (rank, shape) in enumerate(jobs)]
    queues = {shape: iter(sorted(w for w in waits if w.shape == shape)) for shape in (1, 2, 3)}
    slots = [free(f"vm-{number}", offer) for number, offer in enumerate(offers)]

    pairs = list(pair(slots, queues, lambda shape, offer: (shape, offer) in fitting))

    taken, served = {job.number for job, _ in pairs}, {slot.vm for _, slot in pairs}
    assert len(taken) == len(served) == len(pairs)
    assert all((job.shape, slot.offer) in fitting for job, slot in pairs)
    left = [(w, s) for w in waits if w.number not in taken for s in slots if s.vm not in served]
    assert not [1 for job, slot in left if (job.shape, slot.offer) in fitting]


@given(jobs=jobs_of_shapes, count=st.integers(0, 12))
def test_equal_slots_serve_jobs_strictly_in_order(jobs: list[tuple[int, int]], count: int) -> None:
    waits = [waiting(number, rank, shape) for number, (rank, shape) in enumerate(jobs)]
    queues = {shape: iter(sorted(w for w in waits if w.shape == shape)) for shape in (1, 2, 3)}

    pairs = list(pair([free(f"vm-{n}") for n in range(count)], queues, lambda shape, offer: True))

    assert [job for job, _ in pairs] == sorted(waits)[:count]


def test_the_environment_of_the_description_cannot_hide_the_jobs_own() -> None:
    description = JobDescription(id="j1", executable="x", environment={"VOLCLOUD_ATTEMPT": "99"})

    made = assignment(waiting(1), free("vm-1"), description)

    assert made.environment["VOLCLOUD_ATTEMPT"] == "1"


def test_what_is_learnt_is_known_only_once_it_is_kept() -> None:
    known = Known()
    layer = known.layer()
    layer.shape_numbers["key"] = 7

    before = dict(known.shape_numbers)
    known.keep(layer)

    assert (before, known.shape_numbers, known.layer().shape_numbers["key"]) == ({}, {"key": 7}, 7)


def test_what_is_known_is_bounded() -> None:
    known = Known()

    for number in range(MOST_DESCRIPTIONS + 1):
        layer = known.layer()
        layer.descriptions[number] = JobDescription(id="j1", executable="x")
        known.keep(layer)

    assert set(known.descriptions) == {MOST_DESCRIPTIONS}
