"""The ledger gives waiting jobs to free slots."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import delete

from adapters.ledger import requests, tables
from schemas.description import Requirements
from schemas.jobs import Machine, Outcome
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import BIG, SITE, SMALL, Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]


def test_a_request_that_comes_after_the_job_gets_it(desk: Desk) -> None:
    desk.submit("one")

    desk.ask("vm-1")

    assert [job.job for job in desk.assigned()] == [f"{SITE}/one.1"]
    assert desk.state("one") is JobState.ASSIGNED


def test_a_job_that_comes_after_the_request_goes_to_it(desk: Desk) -> None:
    desk.ask("vm-1")

    desk.submit("one")

    assert desk.assigned()[0].target == "vm-1"


def test_a_request_is_served_once(desk: Desk) -> None:
    desk.submit("many", array=2)

    desk.ask("vm-1")

    assert len(desk.assigned()) == 1
    assert desk.states() == {"assigned": 1, "submitted": 1}


def test_higher_priority_goes_first_then_the_older_job(desk: Desk) -> None:
    for job_id, priority in [("low", -5), ("old", 0), ("new", 0), ("high", 7)]:
        desk.submit(job_id, priority=priority)

    for slot in range(4):
        desk.ask("vm-1", slot)

    assert [job.job for job in desk.assigned()] == [f"{SITE}/{job_id}.1" for job_id in ("high", "old", "new", "low")]


def test_priority_counts_across_different_requirements(desk: Desk) -> None:
    desk.submit("plain")
    desk.submit("urgent", priority=1, requirements=Requirements(memory_mib=512))

    desk.ask("vm-1")

    assert desk.assigned()[0].job == f"{SITE}/urgent.1"


def test_the_oldest_request_is_served_first(desk: Desk) -> None:
    for vm in ("vm-9", "vm-1", "vm-5"):
        desk.ask(vm)
        desk.pass_s(1)

    desk.submit("many", array=2)

    assert [job.target for job in desk.assigned()] == ["vm-9", "vm-1"]


def test_a_repeated_request_keeps_its_place(desk: Desk) -> None:
    for vm in ("vm-9", "vm-1", "vm-9"):
        desk.ask(vm)
        desk.pass_s(1)

    desk.submit("one")

    assert desk.assigned()[0].target == "vm-9"


@pytest.mark.parametrize(
    "asked",
    [
        Requirements(cpus=2),
        Requirements(memory_mib=2048),
        Requirements(disk_mib=5000),
        Requirements(platform="linux/arm64"),
        Requirements(image="b" * 64),
        Requirements(features=["gpu"]),
    ],
)
def test_a_job_waits_for_a_vm_that_meets_its_requirements(desk: Desk, asked: Requirements) -> None:
    desk.submit("choosy", requirements=asked)
    desk.submit("plain")
    able = Machine(
        cpus=2, memory_mib=2048, disk_mib=5000, platform=asked.platform, image=asked.image, features=["avx", "gpu"]
    )

    desk.ask("vm-small", machine=SMALL)
    desk.ask("vm-able", machine=able)

    assert {job.target: job.job for job in desk.assigned()} == {
        "vm-small": f"{SITE}/plain.1",
        "vm-able": f"{SITE}/choosy.1",
    }


def test_a_job_that_nobody_can_run_holds_up_no_other(desk: Desk) -> None:
    desk.submit("giant", array=200, priority=9, requirements=Requirements(cpus=200))
    desk.submit("plain")

    desk.ask("vm-1")

    assert desk.assigned()[0].job == f"{SITE}/plain.1"


def test_more_jobs_than_a_page_find_their_slots_in_one_go(desk: Desk) -> None:
    for slot in range(150):
        desk.ask(f"vm-{slot // 50}", slot % 50)

    desk.submit("many", array=200)

    assert sorted((job.target, job.slot) for job in desk.assigned()) == [
        (f"vm-{vm}", slot) for vm in range(3) for slot in range(50)
    ]
    assert sorted(int(job.job.rpartition(".")[2]) for job in desk.assigned()) == list(range(1, 151))


def test_an_assignment_says_all_that_the_guest_needs(desk: Desk) -> None:
    desk.submit(
        "many",
        array=3,
        executable="sim",
        arguments=["--seed", "{index}", "--out=part-{index}.root"],
        environment={"MODE": "fast"},
        wall_time_s=60.0,
        requirements=Requirements(memory_mib=512),
    )

    desk.ask("vm-1", 4, generation=7)

    job = desk.assigned()[0]
    assert (job.target, job.slot, job.generation, job.attempt) == ("vm-1", 4, 7, 1)
    assert (job.executable, job.arguments) == ("sim", ["--seed", "1", "--out=part-1.root"])
    assert (job.wall_time_s, job.memory_mib) == (60.0, 512)
    assert job.environment == {
        "MODE": "fast",
        "VOLCLOUD_JOB": f"{SITE}/many.1",
        "VOLCLOUD_ARRAY_INDEX": "1",
        "VOLCLOUD_ARRAY_SIZE": "3",
        "VOLCLOUD_ATTEMPT": "1",
    }


def test_an_attempt_records_where_it_runs(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", pid=4711, hypervisor="qemu"))
    desk.submit("one")

    desk.ask("vm-1", 2)

    attempt = desk.show("one").attempts[0]
    assert (attempt.vm, attempt.host, attempt.slot) == ("vm-1", "host-1", 2)
    assert (attempt.hypervisor, attempt.hypervisor_pid, attempt.vm_name) == ("qemu", 4711, "1-name")
    assert (attempt.state, attempt.vm_generation, attempt.assigned_ms) == ("assigned", 1, desk.now_ms)


@pytest.mark.parametrize("state", ["paused", "saved", "poweredoff", "aborted"])
def test_a_vm_that_does_not_run_gets_no_job_until_it_runs_again(desk: Desk, state: str) -> None:
    desk.report("host-1", status("vm-1"))
    desk.ask("vm-1")
    desk.report("host-1", status("vm-1", state))

    desk.submit("one")
    before = len(desk.assigned())
    desk.report("host-1", status("vm-1", "running"))

    assert before == 0
    assert len(desk.assigned()) == 1


def test_a_request_that_nobody_repeats_is_forgotten(desk: Desk) -> None:
    desk.ask("vm-1")
    desk.pass_s(desk.policy.request_life_s + 1)
    desk.keep_time()

    desk.submit("one")

    assert desk.assigned() == []


def test_a_match_among_100_000_waiting_jobs_and_1_000_idle_requests_takes_milliseconds(desk: Desk) -> None:
    desk.submit("giants", array=50_000, priority=5, requirements=Requirements(cpus=4, features=["gpu"]))
    tiny = Machine(cpus=1, memory_mib=1, disk_mib=1, platform="linux/arm64")
    batch = [(f"vm-idle{number}", desk.request(machine=tiny)) for number in range(1000)]
    desk.write(lambda tx: requests.ask_all(tx, batch))
    desk.submit("plain", array=50_000, requirements=Requirements(platform=SMALL.platform))

    began = time.thread_time()
    for number in range(100):
        desk.ask(f"vm-{number}")
    each_s = (time.thread_time() - began) / 100

    assert len(desk.assigned()) == 100
    assert {job.target for job in desk.assigned()} == {f"vm-{number}" for number in range(100)}
    assert each_s < 0.05
    print(f"{each_s * 1000:.2f} ms for each request: asked, matched, committed")


def test_a_job_that_failed_is_given_out_again_with_the_next_attempt(desk: Desk) -> None:
    desk.submit("one", attempts=2)
    first = desk.start("vm-1")
    desk.complete(first, Outcome.FAILED)

    second = desk.start("vm-2")

    assert (first.attempt, second.attempt) == (1, 2)
    assert second.environment["VOLCLOUD_ATTEMPT"] == "2"


def test_a_request_whose_class_of_machine_is_gone_stops_nobody(desk: Desk, url: str) -> None:
    desk.ask("vm-odd", machine=BIG)
    desk.ledger.write(lambda tx: tx.execute(delete(tables.offers)))
    other = Desk(url)
    other.ask("vm-1")

    other.submit("one")

    assert [job.target for job in other.assigned()] == ["vm-1"]
    other.ledger.close()
