"""Only VMs that live, run and are trusted are given jobs."""

from __future__ import annotations

import pytest

from adapters.ledger import inventory, leases, queries, registry
from schemas.codec import decode, encode
from schemas.jobs import JobBeat, Outcome
from schemas.ledger import HostList, JobState, Registry, RegistryList, RegistryRow
from schemas.vms import HostBye, VmState
from tests.contract.ledger_fixtures import Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]


def beat_idle(desk: Desk, vm: str) -> None:
    """As an idle guest: it holds nothing and lives."""
    desk.ledger.write_lightly(lambda tx: leases.renew(tx, vm, JobBeat(id=desk.id(), generation=1, holding=[])))


def pass_beats(desk: Desk, beats: int, *living: str) -> None:
    """Let the time of some beats pass, in which only these VMs beat."""
    for _ in range(beats):
        desk.pass_s(desk.policy.beat_s)
        for vm in living:
            beat_idle(desk, vm)
        desk.keep_time()


def test_silent_vms_get_no_job_before_the_living_one(desk: Desk) -> None:
    for vm in ("vm-dead-1", "vm-dead-2", "vm-lives"):
        desk.ask(vm, 0)
    pass_beats(desk, 4, "vm-lives")

    desk.submit("many", array=10)
    for _ in range(9):
        desk.complete(desk.assigned()[-1], request=desk.request())
    desk.complete(desk.assigned()[-1])

    assert {job.target for job in desk.assigned()} == {"vm-lives"}
    assert desk.states() == {"done": 10}


def test_an_idle_guest_keeps_its_place_as_long_as_it_beats(desk: Desk) -> None:
    desk.ask("vm-1")
    pass_beats(desk, 30, "vm-1")

    desk.submit("one")

    assert [job.target for job in desk.assigned()] == ["vm-1"]


def test_a_silent_guest_that_beats_again_is_given_work_without_asking_anew(desk: Desk) -> None:
    desk.ask("vm-1")
    pass_beats(desk, 4)
    desk.submit("one")
    silent = list(desk.assigned())

    beat_idle(desk, "vm-1")
    desk.keep_time()

    assert silent == []
    assert [job.target for job in desk.assigned()] == ["vm-1"]


def test_beats_that_nobody_could_read_make_nobody_silent(desk: Desk) -> None:
    """The lease clock stands still meanwhile; here the wall clock alone goes on."""
    desk.ledger._lease_clock = lambda: 1_000_000_000_000
    desk.ask("vm-1")
    desk.pass_s(3600)
    desk.keep_time()

    desk.submit("one")

    assert [job.target for job in desk.assigned()] == ["vm-1"]


@pytest.mark.parametrize("state", ["stuck", "paused", "saved", "aborted", "poweredoff"])
def test_a_vm_that_does_not_run_gets_no_job(desk: Desk, state: str) -> None:
    desk.report("host-1", status("vm-1"))
    desk.ask("vm-1")
    desk.report("host-1", status("vm-1", state))

    desk.submit("one")
    halted = list(desk.assigned())
    desk.report("host-1", status("vm-1"))

    assert halted == []
    assert [job.target for job in desk.assigned()] == ["vm-1"]


def presence(desk: Desk) -> dict[str, str]:
    page = desk.ledger.read(lambda tx: registry.hosts(tx, HostList()))
    return {row.host: row.presence for row in page.hosts}


def vm(desk: Desk) -> RegistryRow:
    return desk.ledger.read(lambda tx: registry.vms(tx, RegistryList())).vms[0]


def test_a_host_is_late_after_two_beats_and_lost_after_three(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    told = []

    for beats in (1.9, 0.2, 0.8, 0.2, 77):
        desk.pass_s(beats * desk.policy.beat_s)
        told.append((presence(desk)["host-1"], desk.ledger.read(queries.stats).hosts))

    assert told == [
        ("present", {"present": 1}),
        ("late", {"late": 1}),
        ("late", {"late": 1}),
        ("lost", {"lost": 1}),
        ("lost", {"lost": 1}),
    ]


def test_a_running_vm_of_a_lost_host_is_lost_unless_its_guest_is_heard(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.ask("vm-1")
    pass_beats(desk, 80, "vm-1")
    heard = vm(desk).status.state
    pass_beats(desk, 4)

    assert heard == "running"
    assert vm(desk).status.state == "lost"
    assert not vm(desk).agent_ready
    assert desk.ledger.read(queries.stats).vms == {"lost": 1}


def test_lost_is_told_by_the_word_and_no_host_says_it(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", "lost"))
    said = vm(desk).status.state
    pass_beats(desk, 4)
    told = decode(encode(desk.ledger.read(lambda tx: registry.vms(tx, RegistryList()))))

    assert said == "unknown"
    assert isinstance(told, Registry)
    assert told.vms[0].status.state is VmState.LOST
    assert told.vms[0].host_presence == "lost"


def test_a_saved_vm_of_a_lost_host_is_what_it_was(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", "saved"))
    pass_beats(desk, 80)

    assert vm(desk).status.state == "saved"


def test_a_vm_whose_host_said_goodbye_and_that_is_silent_is_lost(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.ledger.write_lightly(lambda tx: inventory.bye(tx, "host-1", HostBye()))

    assert presence(desk) == {"host-1": "absent"}
    assert vm(desk).status.state == "lost"


def test_a_host_whose_clock_was_set_back_is_still_there_and_soon_believed(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"), at_ms=desk.now_ms)
    desk.pass_s(60)
    desk.report("host-1", status("vm-1", "paused"), at_ms=desk.now_ms - 100_000)
    a_little = (presence(desk)["host-1"], vm(desk).status.state)

    desk.report("host-1", status("vm-1", "paused"), at_ms=desk.now_ms - 3_600_000)

    assert a_little == ("present", "running")
    assert vm(desk).status.state == "paused"


def test_the_jobs_of_the_living_are_done_when_most_are_gone(desk: Desk) -> None:
    for number in range(50):
        desk.ask(f"vm-{number:02}", 0)
    pass_beats(desk, 4, "vm-49")

    desk.submit("one")
    desk.complete(desk.assigned()[0], Outcome.DONE)

    assert desk.state("one") is JobState.DONE
