"""The ledger divides each VM among the jobs that run in it at once."""

from __future__ import annotations

from schemas.description import Requirements
from schemas.jobs import JobAssign, Machine, Outcome
from tests.contract.ledger_fixtures import Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]

VM = Machine(cpus=4, memory_mib=8192, disk_mib=40_000, platform="linux/x86_64", slots=4)
WHOLE = Requirements(cpus=4, memory_mib=8000)


def ask(desk: Desk, vm: str = "vm-1", *slots: int) -> None:
    for slot in slots or range(VM.slots):
        desk.ask(vm, slot, VM)


def given(desk: Desk) -> list[str]:
    return [job.job.partition("/")[2].partition(".")[0] for job in desk.assigned()]


def end(desk: Desk, job: JobAssign) -> None:
    desk.complete(job, Outcome.DONE, request=desk.request(job.slot, VM))


def test_four_jobs_of_a_whole_vm_run_one_after_the_other(desk: Desk) -> None:
    desk.submit("large", array=4, requirements=WHOLE)
    ask(desk)

    for number in range(1, 5):
        assert len(desk.assigned()) == number
        end(desk, desk.assigned()[-1])

    assert desk.states() == {"done": 4}


def test_an_assignment_says_what_its_job_may_have(desk: Desk) -> None:
    desk.submit("small")
    desk.submit("named", requirements=Requirements(cpus=2, memory_mib=3000, disk_mib=500))
    ask(desk)

    told = [(job.cpus, job.memory_mib, job.disk_mib) for job in desk.assigned()]

    assert told == [(1, 2048, 10_000), (2, 3000, 500)]


def test_beside_a_large_job_runs_what_it_leaves_room_for(desk: Desk) -> None:
    desk.submit("three", requirements=Requirements(cpus=3, memory_mib=4096))
    desk.submit("small", array=3)
    ask(desk)

    assert given(desk) == ["three", "small"]


def test_a_large_job_waits_for_room_and_then_runs(desk: Desk) -> None:
    desk.submit("small", array=2)
    ask(desk)
    desk.submit("large", requirements=WHOLE)
    before = given(desk)

    for job in list(desk.assigned()):
        end(desk, job)

    assert before == ["small", "small"]
    assert given(desk) == ["small", "small", "large"]


def test_jobs_taken_ahead_on_one_slot_do_not_add_up(desk: Desk) -> None:
    desk.submit("large", array=3, requirements=WHOLE)

    ask(desk, "vm-1", 0, 4, 8)

    assert [job.slot for job in desk.assigned()] == [0, 4, 8]


def test_a_job_that_has_waited_long_is_not_starved_by_small_ones(desk: Desk) -> None:
    desk.submit("small", array=200)
    ask(desk)
    desk.submit("large", priority=1, requirements=WHOLE)
    desk.pass_s(desk.policy.patience_s + 1)

    for _ in range(4):
        running = [job for job in desk.assigned() if desk.show(job.job.partition("/")[2]).job.state == "assigned"]
        end(desk, running[0])

    assert given(desk)[-1] == "large"


def test_one_vm_is_kept_free_for_it_and_no_more(desk: Desk) -> None:
    desk.submit("small", array=300)
    ask(desk, "vm-1")
    ask(desk, "vm-2")
    desk.submit("large", priority=1, requirements=WHOLE)
    desk.pass_s(desk.policy.patience_s + 1)

    first = desk.assigned()[:8]
    for job in first:
        end(desk, job)

    later = [(job.target, job.job.partition("/")[2].partition(".")[0]) for job in desk.assigned()[8:]]
    assert ("vm-1", "large") in later
    assert [vm for vm, name in later if name == "small"] == ["vm-2"] * 4


def test_the_vm_that_is_kept_free_is_the_one_that_will_be_free_first(desk: Desk) -> None:
    """The slot that has been idle for longest is in a VM whose other slots have month-long jobs."""
    desk.submit("months", array=3, wall_time_s=31 * 86400.0)
    ask(desk, "vm-1", 0, 1, 2)
    desk.submit("short", array=4, wall_time_s=600.0)
    ask(desk, "vm-2")
    desk.beat(*desk.assigned()[:3], vm="vm-1")
    desk.beat(*desk.assigned()[3:], vm="vm-2")
    desk.ask("vm-1", 3, VM)
    desk.submit("large", requirements=WHOLE)
    desk.pass_s(desk.policy.patience_s + 1)
    desk.beat(vm="vm-1")
    desk.beat(vm="vm-2")
    desk.keep_time()
    desk.submit("small", array=50)

    for job in desk.assigned()[3:7]:
        end(desk, job)

    later = [(job.target, job.job.partition("/")[2].partition(".")[0]) for job in desk.assigned()[7:]]
    assert ("vm-2", "large") in later
    assert ("vm-1", "small") in later, "its idle slot is not kept for what may never come"
    assert ("vm-2", "small") not in later


def test_it_stays_the_same_vm_until_it_is_free_and_another_one_when_it_goes(desk: Desk) -> None:
    desk.submit("small", array=300, wall_time_s=600.0)
    ask(desk, "vm-1")
    ask(desk, "vm-2")
    desk.submit("large", priority=1, requirements=WHOLE)
    desk.pass_s(desk.policy.patience_s + 1)
    first = desk.assigned()[:8]
    end(desk, first[0])
    for _ in range(6):
        desk.pass_s(10)
        desk.beat(*[job for job in first[1:] if job.target == "vm-1"], vm="vm-1")
        desk.beat(*[job for job in first if job.target == "vm-2"], vm="vm-2")
        desk.keep_time()
    kept = {job.target for job in desk.assigned()[8:]}

    desk.report("host-1", status("vm-1", "paused"))
    desk.keep_time()
    for job in [job for job in first if job.target == "vm-2"]:
        end(desk, job)

    assert kept == set(), "nothing else was given to the one that is kept free"
    assert ("vm-2", "large") in [(job.target, job.job.partition("/")[2].partition(".")[0]) for job in desk.assigned()]


def test_what_no_whole_vm_has_is_named_as_ever(desk: Desk) -> None:
    ask(desk)
    desk.submit("giant", requirements=Requirements(cpus=5))

    assert desk.show("giant").waiting_for == ["cpus = 5: the VM has 4"]
