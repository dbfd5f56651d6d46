"""Matching, without a database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ledger import backlog
from adapters.ledger.backlog import MOST_PASSED, Backlog, Backlogs
from adapters.ledger.classes import offer_key, shape_key
from adapters.ledger.known import MOST_DESCRIPTIONS, Known
from adapters.ledger.matching import Fit, Free, Waiting, assignment, nearest, pair, unmet
from adapters.ledger.shares import Capacity
from schemas.description import JobDescription, Requirements
from schemas.jobs import Machine

MACHINE = Machine(cpus=2, memory_mib=2048, disk_mib=8192, platform="linux/x86_64", features=["avx"])


class Anywhere:
    """VMs that may have every job but those that are refused."""

    def __init__(self, refused: dict[tuple[int, str], Fit] | None = None, closed: Collection[str] = ()) -> None:
        self.refused, self.closed, self.asked = refused or {}, closed, 0

    def is_closed(self, free: Free) -> bool:
        return free.vm in self.closed

    def judge(self, job: Waiting, free: Free) -> Fit:
        self.asked += 1
        return self.refused.get((job.number, free.vm), Fit.YES)

    def give(self, job: Waiting, free: Free) -> None:
        pass


def say_yes(job: Waiting) -> Fit:
    return Fit.YES


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


class Line:
    """Free slots in a list."""

    def __init__(self, *slots: Free) -> None:
        self.slots, self.looked_at, self.left_out = slots, 0, set[int]()

    def __iter__(self) -> Iterator[Free]:
        for slot in self.slots:
            if slot.offer not in self.left_out:
                self.looked_at += 1
                yield slot

    def leave_out(self, offer: int) -> None:
        self.left_out.add(offer)


class Jobs:
    """Waiting jobs in lists; counts what is read of them."""

    def __init__(self, waits: Sequence[Waiting]) -> None:
        self.waits, self.read, self.looked_through = sorted(waits), 0, 0

    def backlog(
        self, fits: Callable[[int, int], bool] = lambda shape, offer: True, taken: set[int] | None = None
    ) -> Backlog:
        def fitting(offer: int) -> list[int]:
            return sorted({job.shape for job in self.waits if fits(job.shape, offer)})

        return Backlog(self.walk(), self.queues, fitting, fits, taken=taken)

    def walk(self) -> Iterator[Waiting]:
        for job in self.waits:
            self.read += 1
            yield job

    def queues(self, shapes: Collection[int]) -> dict[int, Iterator[Waiting]]:
        self.looked_through += 1
        return {shape: iter([job for job in self.waits if job.shape == shape]) for shape in shapes}


def test_the_job_of_lowest_rank_among_the_fitting_shapes_goes_first() -> None:
    jobs = Jobs([waiting(1), waiting(2), waiting(9, rank=-5, shape=2)])

    pairs = list(pair(Line(free("a"), free("b"), free("c")), jobs.backlog(), Anywhere()))

    assert [(job.number, slot.vm) for job, slot in pairs] == [(9, "a"), (1, "b"), (2, "c")]


def test_a_slot_that_fits_nothing_is_passed_over_and_its_like_are_not_looked_at() -> None:
    line = Line(free("a", offer=7), *(free(f"a{n}", offer=7) for n in range(9)), free("b"))

    pairs = list(pair(line, Jobs([waiting(1)]).backlog(lambda shape, offer: offer == 1), Anywhere()))

    assert [(job.number, slot.vm) for job, slot in pairs] == [(1, "b")]
    assert line.looked_at == 2


def test_no_more_is_read_than_is_paired() -> None:
    jobs = Jobs([waiting(number) for number in range(100)])

    list(pair(Line(free("a"), free("b")), jobs.backlog(), Anywhere()))

    assert jobs.read == 2


def test_many_kinds_that_wait_cost_nothing_while_one_at_the_front_fits() -> None:
    jobs = Jobs([waiting(number, shape=number) for number in range(1, 1000)])

    job = jobs.backlog().first_for(free("a"), say_yes)

    assert (job and job.number, jobs.read, jobs.looked_through) == (1, 1, 0)


def test_what_fits_nobody_at_the_front_is_passed_over_to_the_first_of_its_kind_that_fits() -> None:
    giants = [waiting(number, rank=-1, shape=9) for number in range(1, 5000)]
    jobs = Jobs([*giants, waiting(6000), waiting(7000)])
    backlog = jobs.backlog(lambda shape, offer: shape == 1)

    found = [backlog.first_for(free("a", offer), say_yes) for offer in (1, 2, 1)]

    assert [job and job.number for job in found] == [6000, 7000, None]
    assert jobs.read == MOST_PASSED


jobs_of_shapes = st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 3)), max_size=12)
offers_of_slots = st.lists(st.integers(1, 3), max_size=12)


@given(
    jobs=jobs_of_shapes,
    offers=offers_of_slots,
    fitting=st.sets(st.tuples(st.integers(1, 3), st.integers(1, 3))),
    passed=st.integers(0, 4),
)
def test_each_slot_gets_the_first_job_that_fits_whichever_way_it_is_found(
    jobs: list[tuple[int, int]], offers: list[int], fitting: set[tuple[int, int]], passed: int
) -> None:
    waits = [waiting(number, rank, shape) for number, (rank, shape) in enumerate(jobs)]
    slots = [free(f"vm-{number}", offer) for number, offer in enumerate(offers)]
    left, expected = sorted(waits), []
    for slot in slots:
        if job := next((job for job in left if (job.shape, slot.offer) in fitting), None):
            left.remove(job)
            expected.append((job, slot))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog, "MOST_PASSED", passed)
        pairs = list(
            pair(Line(*slots), Jobs(waits).backlog(lambda shape, offer: (shape, offer) in fitting), Anywhere())
        )

    assert pairs == expected


def test_the_environment_of_the_description_cannot_hide_the_jobs_own() -> None:
    description = JobDescription(id="j1", executable="x", environment={"VOLCLOUD_ATTEMPT": "99"})

    made = assignment(waiting(1), free("vm-1"), description, Capacity(1, 512, 1024))

    assert made.environment["VOLCLOUD_ATTEMPT"] == "1"
    assert (made.cpus, made.memory_mib, made.disk_mib) == (1, 512, 1024)


def refusing(*refused: tuple[int, str], word: Fit = Fit.NO, closed: Collection[str] = ()) -> Anywhere:
    """VMs that may not have these jobs."""
    return Anywhere(dict.fromkeys(refused, word), closed)


def given(pool: Anywhere, *slots: str, count: int = 3) -> list[tuple[int, str]]:
    waits = [waiting(n, shape=n) for n in range(1, count + 1)]
    made = pair(Line(*(free(vm) for vm in slots)), Jobs(waits).backlog(), pool)
    return [(job.number, slot.vm) for job, slot in made]


@pytest.mark.parametrize("passed", [0, 64])
def test_a_job_that_is_kept_off_a_vm_lets_the_next_one_pass_and_goes_to_another(
    monkeypatch: pytest.MonkeyPatch, passed: int
) -> None:
    monkeypatch.setattr(backlog, "MOST_PASSED", passed)

    waits = [waiting(1, shape=1), waiting(2, shape=2)]
    made = pair(Line(free("a"), free("b")), Jobs(waits).backlog(), refusing((1, "a")))

    assert [(job.number, slot.vm) for job, slot in made] == [(2, "a"), (1, "b")]


def test_a_vm_that_may_have_nothing_more_is_passed_over() -> None:
    assert given(refusing(closed={"a"}), "a", "b") == [(1, "b")]


def test_a_vm_that_is_kept_free_for_a_job_is_given_no_later_one() -> None:
    assert given(refusing((1, "a"), word=Fit.WAIT), "a", "a", "b") == [(1, "b")]
    assert given(refusing((1, "a"), word=Fit.NO), "a", "a", "b") == [(2, "a"), (3, "a"), (1, "b")]


@pytest.mark.parametrize("passed", [0, 64])
def test_however_many_jobs_are_kept_off_a_vm_few_are_looked_at(monkeypatch: pytest.MonkeyPatch, passed: int) -> None:
    monkeypatch.setattr(backlog, "MOST_PASSED", passed)
    jobs = Jobs([waiting(number, shape=number) for number in range(1000)])
    pool = refusing(*((number, "a") for number in range(1000)))

    made = [(job.number, slot.vm) for job, slot in pair(Line(free("a"), free("a"), free("b")), jobs.backlog(), pool)]

    assert made == [(0, "b")]
    assert pool.asked <= 2 * backlog.MOST_REFUSED + 1


@pytest.mark.parametrize("passed", [0, 64])
@pytest.mark.parametrize("kinds", [1, 500])
def test_jobs_that_are_kept_off_a_vm_hide_no_others_from_it(
    monkeypatch: pytest.MonkeyPatch, passed: int, kinds: int
) -> None:
    monkeypatch.setattr(backlog, "MOST_PASSED", passed)
    waits = [waiting(number, shape=number % kinds) for number in range(1000)]
    pool = refusing(*((number, "a") for number in range(200)), word=Fit.ELSEWHERE)

    def make(vm: str, taken: set[int]) -> Backlog:
        return Jobs([job for job in waits if not vm or (job.number, vm) not in pool.refused]).backlog(taken=taken)

    slots = Line(*(free("a") for _ in range(3)), free("b"), free("a"))
    made = [(job.number, slot.vm) for job, slot in pair(slots, Backlogs(make), pool)]

    assert [vm for _, vm in made] == ["a", "a", "a", "b", "a"]
    assert [number for number, vm in made if vm == "b"] == [0]
    assert len({number for number, _ in made}) == 5
    assert pool.asked <= backlog.MOST_REFUSED + 6


def test_so_many_vms_look_by_themselves_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MOST_BY_THEMSELVES", 2)
    waits = [waiting(number) for number in range(100)]
    names = [f"vm-{number}" for number in range(5)]
    pool = refusing(*((number, vm) for number in range(90) for vm in names), word=Fit.ELSEWHERE)

    def make(vm: str, taken: set[int]) -> Backlog:
        return Jobs([job for job in waits if not vm or (job.number, vm) not in pool.refused]).backlog(taken=taken)

    made = [(job.number, slot.vm) for job, slot in pair(Line(*map(free, names)), Backlogs(make), pool)]

    assert made == [(90, "vm-0"), (91, "vm-1")]


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


def test_what_a_transaction_has_found_stays_while_another_thread_begins_anew() -> None:
    known, other = Known(), Known()
    other.descriptions.update({number: JobDescription(id="j1", executable="x") for number in range(MOST_DESCRIPTIONS)})
    known.keep(other)
    reader = known.layer()
    found = [number for number in range(MOST_DESCRIPTIONS) if number in reader.descriptions]

    learnt = known.layer()
    learnt.descriptions[MOST_DESCRIPTIONS] = JobDescription(id="j2", executable="x")
    known.keep(learnt)

    assert [reader.descriptions[number].id for number in found] == ["j1"] * MOST_DESCRIPTIONS
    assert set(known.descriptions) == {MOST_DESCRIPTIONS}
