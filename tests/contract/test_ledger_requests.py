"""The ledger hears what guests ask for and what they say they hold."""

from __future__ import annotations

import msgspec

from adapters.ledger import assignments, requests
from schemas.jobs import Phase
from schemas.ledger import JobState
from tests.contract.ledger_fixtures import SMALL, Desk, cluster, desk, url

__all__ = ["cluster", "desk", "url"]


def test_a_newer_request_of_a_slot_replaces_the_older(desk: Desk) -> None:
    desk.ask("vm-1")
    desk.ask("vm-1")

    desk.submit("many", array=2)

    assert len(desk.assigned()) == 1


def test_a_request_of_an_older_generation_is_ignored_and_counted(desk: Desk) -> None:
    desk.ask("vm-1", generation=2)
    desk.ask("vm-1", slot=1, generation=1)
    counted = desk.counts

    desk.submit("many", array=2)

    assert counted["stale_generation"] == 1
    assert [job.slot for job in desk.assigned()] == [0]


def test_a_new_boot_forgets_the_requests_of_the_one_before(desk: Desk) -> None:
    desk.ask("vm-1", slot=0, generation=1)
    desk.ask("vm-1", slot=1, generation=2)

    desk.submit("many", array=2)

    assert [(job.slot, job.generation) for job in desk.assigned()] == [(1, 2)]


def test_a_request_delivered_again_after_it_was_served_brings_no_second_job(desk: Desk) -> None:
    desk.submit("many", array=2)
    message = desk.ask("vm-1")
    job = desk.assigned()[0]
    desk.beat(job)

    desk.write(lambda tx: requests.ask(tx, "vm-1", message))

    assert desk.counts["request_served"] == 1
    assert len(desk.assigned()) == 1


def test_a_request_repeated_while_its_assignment_is_on_its_way_brings_no_second_job(desk: Desk) -> None:
    desk.submit("many", array=2)
    desk.ask("vm-1")

    desk.ask("vm-1")

    assert desk.counts["assignment_on_its_way"] == 1
    assert len(desk.assigned()) == 1


def test_a_guest_that_holds_a_job_may_ask_for_one_ahead(desk: Desk) -> None:
    desk.submit("many", array=2)
    first = desk.start("vm-1")

    desk.ask("vm-1", holding=[first])

    assert len(desk.assigned()) == 2
    assert desk.states() == {"assigned": 2}


def test_an_assignment_that_crosses_a_request_of_the_same_boot_is_not_lost(desk: Desk) -> None:
    desk.submit("one")
    desk.ask("vm-1", slot=0)

    desk.ask("vm-1", slot=1, holding=[])

    assert desk.state("one") is JobState.ASSIGNED


def test_a_completion_that_a_request_overtook_still_counts(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job)
    desk.ask("vm-1", slot=0, holding=[])

    answer = desk.complete(job)

    assert answer.counted
    assert desk.state("one") is JobState.DONE


def test_a_new_boot_that_does_not_carry_an_attempt_over_has_lost_it(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job)

    desk.ask("vm-1", slot=1, generation=2)

    record = desk.show("one")
    assert [attempt.state for attempt in record.attempts] == ["lost", "assigned"]
    assert record.job.losses == 1
    lost = next(event for event in record.events if event.event == "lost")
    assert lost.noticed_by == "vm-1 (guest agent)"
    assert "came up without it" in lost.detail


def test_a_restored_vm_carries_its_attempt_over_to_the_new_boot(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job)

    desk.hello("vm-1", generation=2, holding=[job])
    desk.ask("vm-1", slot=1, generation=2, holding=[job])
    desk.hello("vm-1", generation=2, holding=[job])

    assert desk.state("one") is JobState.RUNNING
    assert desk.show("one").attempts[0].vm_generation == 2


def test_an_agent_that_starts_without_an_attempt_it_had_has_lost_it(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job, phase=Phase.STAGE_IN)

    desk.hello("vm-1", holding=[])

    assert desk.state("one") is JobState.SUBMITTED
    assert desk.job("one").losses == 1


def test_an_agent_that_starts_before_its_assignment_arrives_keeps_it(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")

    desk.hello("vm-1", holding=[])

    assert desk.state("one") is JobState.ASSIGNED
    assert desk.beat(job).stop == []


def test_a_hello_that_comes_late_takes_nothing_that_was_taken_on_after_it(desk: Desk) -> None:
    desk.submit("one")
    late = desk.id()
    job = desk.start("vm-1")
    desk.beat(job)

    message = requests.AgentHello(id=late, machine=SMALL, generation=1)
    desk.write(lambda tx: requests.hello(tx, "vm-1", message))

    assert desk.state("one") is JobState.RUNNING


def test_an_older_hello_after_a_newer_is_ignored_and_counted(desk: Desk) -> None:
    old = requests.AgentHello(id=desk.id(), machine=SMALL, generation=1)
    desk.hello("vm-1")

    desk.write(lambda tx: requests.hello(tx, "vm-1", old))

    assert desk.counts["stale_hello"] == 1


def test_what_one_vm_holds_is_no_business_of_another(desk: Desk) -> None:
    desk.submit("one")
    job = desk.start("vm-1")
    desk.beat(job)

    desk.hello("vm-2", holding=[])
    desk.ask("vm-2", generation=9)

    assert desk.state("one") is JobState.RUNNING


def test_a_batch_of_requests_is_served_in_the_order_of_their_coming(desk: Desk) -> None:
    desk.submit("many", array=3)
    batch = [(f"vm-{number}", desk.request()) for number in range(5)]

    desk.write(lambda tx: requests.ask_all(tx, batch))

    assert len(desk.assigned()) == 3
    assert desk.ledger.write(assignments.match) == 0


def test_one_request_for_several_slots_gets_a_job_for_each(desk: Desk) -> None:
    desk.submit("many", array=5)

    desk.ask("vm-1", more=[1, 2, 7])

    assert sorted(job.slot for job in desk.assigned()) == [0, 1, 2, 7]


def test_a_request_for_several_slots_that_comes_again_is_served_once(desk: Desk) -> None:
    desk.submit("many", array=5)
    message = desk.ask("vm-1", more=[1, 2])

    desk.write(lambda tx: requests.ask(tx, "vm-1", message))

    assert len(desk.assigned()) == 3


def test_a_slot_that_would_begin_at_once_is_served_before_one_that_takes_ahead(desk: Desk) -> None:
    desk.ask("vm-1", more=[1, 2, 3])
    desk.pass_s(1)
    desk.ask("vm-2", more=[1])

    desk.submit("many", array=4)

    assert sorted((job.target, job.slot) for job in desk.assigned()) == [
        ("vm-1", 0),
        ("vm-1", 1),
        ("vm-2", 0),
        ("vm-2", 1),
    ]


def test_a_request_says_how_far_ahead_it_asks(desk: Desk) -> None:
    desk.write(lambda tx: requests.ask(tx, "vm-1", msgspec.structs.replace(desk.request(), ahead=5)))
    desk.ask("vm-2")

    desk.submit("one")

    assert [job.target for job in desk.assigned()] == ["vm-2"]


def test_a_withdrawn_slot_gets_nothing_until_it_asks_again(desk: Desk) -> None:
    desk.ask("vm-1", more=[1, 2])
    desk.withdraw("vm-1", [1, 2])

    desk.submit("many", array=3)
    first = [job.slot for job in desk.assigned()]
    desk.ask("vm-1", slot=2)

    assert (first, [job.slot for job in desk.assigned()]) == ([0], [0, 2])


def test_a_withdrawal_that_comes_after_a_newer_request_takes_nothing(desk: Desk) -> None:
    old = desk.id()
    desk.ask("vm-1", slot=1)

    desk.withdraw("vm-1", [1], message_id=old)
    desk.submit("one")

    assert [job.slot for job in desk.assigned()] == [1]


def test_of_another_vms_requests_a_withdrawal_takes_nothing(desk: Desk) -> None:
    desk.ask("vm-1")
    desk.withdraw("vm-2", [0])
    desk.submit("one")

    assert [job.target for job in desk.assigned()] == ["vm-1"]
