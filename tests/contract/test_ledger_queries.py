"""The ledger answers questions: jobs, the why of one, hosts, VMs, numbers; and it hears the hosts."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from adapters.errors import NotFound
from adapters.ledger import clock, inventory, listing, queries, tables
from adapters.ledger import registry as pages
from adapters.ledger.inventory import GONE_FOR_EACH
from adapters.ledger.policy import Policy
from schemas.description import Requirements
from schemas.jobs import Outcome, Phase
from schemas.ledger import HostList, JobList, Jobs, JobState, RegistryList, RegistryRow
from schemas.vms import WITHOUT_PROCESS, HostBye
from tests.contract.ledger_fixtures import BIG, SITE, Desk, cluster, desk, status, url

__all__ = ["cluster", "desk", "url"]


def listed(desk: Desk, owner: str = "", **asked: Any) -> Jobs:
    return desk.ledger.read(lambda tx: listing.list_jobs(tx, JobList(**asked), owner))


def names(jobs: Jobs) -> list[str]:
    return [row.job.partition("/")[2] for row in jobs.jobs]


def registry(desk: Desk, pattern: str = "*") -> list[RegistryRow]:
    return desk.ledger.read(lambda tx: pages.vms(tx, RegistryList(pattern=pattern))).vms


def test_jobs_are_listed_newest_first_with_the_counts_of_all(desk: Desk) -> None:
    desk.submit("many", array=5)
    desk.start("vm-1")

    page = listed(desk, limit=2)
    following = listed(desk, limit=2, before=page.jobs[-1].number)

    assert (names(page), names(following)) == (["many.5", "many.4"], ["many.3", "many.2"])
    assert page.counts == {"submitted": 4, "assigned": 1}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"job": "many"}, ["many.2", "many.1"]),
        ({"job": "many.2"}, ["many.2"]),
        ({"job": "site-a/many.1"}, ["many.1"]),
        ({"owner": "site-b"}, ["one.1"]),
        ({"owner": "site-b", "job": "many"}, []),
        ({"states": [JobState.HELD]}, []),
        ({"states": [JobState.SUBMITTED, JobState.DONE]}, ["one.1", "many.2", "many.1"]),
    ],
)
def test_jobs_are_chosen_by_owner_name_and_state(desk: Desk, asked: dict[str, Any], expected: list[str]) -> None:
    desk.submit("many", "site-a", array=2)
    desk.submit("one", "site-b")

    assert names(listed(desk, **asked)) == expected


def test_a_site_sees_its_own_jobs_only(desk: Desk) -> None:
    desk.submit("one", "site-a")
    desk.submit("two", "site-b")

    assert names(listed(desk, owner="site-a")) == ["one.1"]
    assert names(listed(desk, "site-a")) == ["one.1"]
    assert names(desk.ledger.read(lambda tx: listing.list_jobs(tx, JobList(owner="site-b"), "site-a"))) == []


def test_a_job_that_is_not_there_is_said_to(desk: Desk) -> None:
    with pytest.raises(NotFound, match=r"site-a/ghost\.1"):
        desk.show("ghost")


def test_the_diary_tells_a_job_from_end_to_end(desk: Desk) -> None:
    desk.submit("one", attempts=2)
    desk.pass_s(1)
    first = desk.start("vm-1")
    desk.pass_s(1)
    desk.complete(first, Outcome.FAILED, exit_status=1, cause="exit status 1")
    desk.pass_s(1)
    second = desk.start("vm-2")
    desk.pass_s(1)
    desk.beat(second)
    desk.pass_s(1)
    desk.complete(second)

    told = [(event.attempt, event.event, event.noticed_by) for event in desk.show("one").events]

    assert told == [
        (0, "submitted", SITE),
        (1, "assigned", "adapter-test"),
        (1, "started", "vm-1 (guest agent)"),
        (1, "failed", "vm-1 (guest agent)"),
        (2, "assigned", "adapter-test"),
        (2, "started", "vm-2 (guest agent)"),
        (2, "done", "vm-2 (guest agent)"),
    ]


def test_a_job_that_no_vm_can_run_says_what_is_missing_at_the_nearest(desk: Desk) -> None:
    desk.ask("vm-small")
    desk.ask("vm-big", machine=BIG)
    desk.submit("choosy", requirements=Requirements(cpus=4, memory_mib=32768, features=["gpu"]))

    record = desk.show("choosy")

    assert record.waiting_for == ["memory_mib = 32768: the VM has 16384"]
    assert "cancel the job" in record.next_step


def test_a_job_for_which_all_able_vms_are_busy_waits_for_a_slot(desk: Desk) -> None:
    desk.submit("many", array=2)
    desk.start("vm-1")

    record = desk.show("many.2")

    assert record.waiting_for == []
    assert record.next_step.startswith("wait:")


def test_a_job_waits_for_a_vm_where_there_is_none(desk: Desk) -> None:
    desk.submit("one")

    assert desk.show("one").waiting_for == ["a VM: none has asked for work yet"]


def test_a_held_job_says_what_to_do_next(desk: Desk) -> None:
    desk.submit("one")
    desk.complete(desk.start("vm-1"), Outcome.FAILED, cause="bad")

    assert desk.show("one").next_step == (
        f"held after 1 failure: read `volcloud job logs {SITE}/one.1`, mend the payload, "
        f"then `volcloud job retry {SITE}/one.1`"
    )


def test_hosts_are_known_by_their_reports_until_they_say_goodbye(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"), status("vm-2"))
    desk.report("host-2")
    desk.write(lambda tx: inventory.bye(tx, "host-2", HostBye()))

    hosts = desk.ledger.read(lambda tx: pages.hosts(tx, HostList())).hosts

    assert [(row.host, row.present, row.vms) for row in hosts] == [("host-1", True, 2), ("host-2", False, 0)]
    assert hosts[0].facts.hostname == "pc"


def test_the_registry_joins_what_host_and_guest_say(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"), status("vm-2", "poweredoff"))
    desk.submit("one")
    desk.start("vm-1")

    first, second = registry(desk)

    assert (first.host, first.status.vm, first.agent_ready, first.jobs) == ("host-1", "vm-1", True, [f"{SITE}/one.1"])
    assert (second.status.state, second.agent_ready, second.jobs) == ("poweredoff", False, [])
    assert [row.status.vm for row in registry(desk, "2-*")] == ["vm-2"]


def test_an_agent_that_is_silent_for_three_beats_is_not_ready(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.hello("vm-1")
    since_ms = desk.now_ms
    desk.pass_s(3 * desk.policy.beat_s + 1)
    silent = registry(desk)[0]
    desk.beat(vm="vm-1")

    back = registry(desk)[0]

    assert (silent.agent_ready, silent.agent_since_ms) == (False, since_ms)
    assert (back.agent_ready, back.agent_since_ms) == (True, desk.now_ms)


@pytest.mark.parametrize("state", sorted(WITHOUT_PROCESS))
def test_the_agent_of_a_vm_without_a_process_is_not_ready_from_the_moment_that_its_host_says_so(
    desk: Desk, state: str
) -> None:
    desk.report("host-1", status("vm-1"))
    desk.hello("vm-1")
    assert registry(desk)[0].agent_ready

    desk.report("host-1", status("vm-1", state))

    assert not any(row.agent_ready for row in registry(desk))


def test_what_an_agent_of_an_earlier_boot_has_said_makes_no_later_one_ready(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    desk.hello("vm-1")

    desk.report("host-1", status("vm-1", generation=2))
    booting = registry(desk)[0]
    desk.hello("vm-1", generation=2)

    assert not booting.agent_ready
    assert registry(desk)[0].agent_ready


def test_a_vm_that_its_host_no_longer_lists_is_absent(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"), status("vm-2"))

    desk.report("host-1", status("vm-2"))

    assert [row.status.vm for row in registry(desk)] == ["vm-2"]


def test_an_overtaken_report_is_ignored_and_counted(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", "paused"), at_ms=200)

    desk.report("host-1", status("vm-1", "running"), at_ms=100)

    assert desk.counts["stale_inventory"] == 1
    assert registry(desk)[0].status.state == "paused"


def test_a_host_whose_clock_was_set_back_is_heard_again_after_a_while(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", "paused"), at_ms=10**13)
    desk.pass_s(601)

    desk.report("host-1", status("vm-1", "running"), at_ms=100)

    assert registry(desk)[0].status.state == "running"


def test_a_host_is_not_heard_about_another_hosts_vm(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))

    desk.report("host-2", status("vm-1", "aborted"))

    assert desk.counts["foreign_vm"] == 1
    assert registry(desk)[0].status.state == "running"


def there(desk: Desk, host: str = "host-1") -> dict[str, str]:
    """The VMs that a host has, with their states."""
    vms = tables.vms.c
    statement = select(vms.vm, vms.state).where(tables.IS_THERE, vms.host == host)
    return {vm: state for vm, state in desk.ledger.read(lambda tx: tx.execute(statement).all())}  # noqa: C416


def test_a_host_is_heard_of_no_more_new_vms_than_it_may_have(desk: Desk) -> None:
    """A report of 1,000 fresh names once made 1,000 rows, and so did the next one."""
    most = desk.policy.vms_of_host
    desk.report("host-1", *(status(f"vm-{number}") for number in range(most + 50)))

    assert set(there(desk)) == {f"vm-{number}" for number in range(most)}
    assert desk.counts["too_many_vms"] == 50
    desk.report("host-1", *(status(f"vm-{number}", "paused") for number in range(1, most + 50)))
    assert there(desk) == {f"vm-{number}": "paused" for number in range(1, most + 1)}
    desk.report("host-2", status("vm-of-another"))
    assert set(there(desk, "host-2")) == {"vm-of-another"}


def test_a_host_that_has_new_vms_all_the_time_is_heard_of_none_before_the_old_ones_are_forgotten(desk: Desk) -> None:
    most = desk.policy.vms_of_host
    for report in range(20):
        desk.report("host-1", *(status(f"vm-{report}-{number}") for number in range(most)))

    rows = desk.ledger.read(lambda tx: tx.execute(select(func.count()).select_from(tables.vms)).scalar_one())
    assert rows <= (GONE_FOR_EACH + 1) * most
    assert desk.counts["too_many_vms"] > 0
    desk.report("host-2", status("vm-of-another"))
    assert set(there(desk, "host-2")) == {"vm-of-another"}


def test_a_boot_that_the_host_announces_makes_the_older_guest_stale(desk: Desk) -> None:
    desk.ask("vm-1", generation=1)
    desk.report("host-1", status("vm-1", "starting", generation=2))

    desk.submit("one")
    desk.ask("vm-1", generation=1)

    assert desk.counts["stale_generation"] == 1
    assert desk.assigned() == []


def test_the_numbers_tell_what_there_is_now(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"), status("vm-2", "paused"))
    desk.submit("many", array=3)
    desk.beat(desk.start("vm-1"))
    desk.submit("bad", requirements=Requirements(cpus=99))
    desk.pass_s(10)
    desk.ask("vm-1", slot=7)
    desk.complete(desk.assigned()[-1], Outcome.FAILED)

    stats = desk.ledger.read(queries.stats)

    assert stats.jobs == {"running": 1, "submitted": 2, "held": 1}
    assert (stats.requests, stats.leases, stats.oldest_wait_ms) == (0, 1, 10_000)
    assert stats.outbox == 4  # two assignments, an answer to their guest, and the site's word of an end
    assert (stats.vms, stats.hosts) == ({"running": 1, "paused": 1}, {"present": 1})


def test_a_stage_in_that_waits_for_a_storage_adapter_says_so(desk: Desk) -> None:
    desk.submit("one")
    desk.beat(desk.start("vm-1"), phase=Phase.STAGE_IN)
    at_first = desk.show("one").next_step
    desk.pass_s(120)
    without_any = desk.show("one").next_step
    desk.write(lambda tx: clock.take_turn(tx, clock.STORAGE))
    with_one = desk.show("one").next_step
    desk.pass_s(90)

    assert at_first.startswith("nothing, it is at work;")
    assert without_any == "start a `storage_adapter`: its inputs come from one, and none has been at work yet"
    assert with_one == "wait: its VM has been fetching its inputs for 120 s"
    assert desk.show("one").next_step == (
        "start a `storage_adapter`, or read the log of one that runs, whose store may take no files: "
        "none has been at work for 90 s"
    )


def test_a_job_that_waits_before_its_next_try_says_how_long(url: str) -> None:
    desk = Desk(url, policy=Policy(first_retry_s=100))
    desk.submit("one")
    desk.complete(desk.start("vm-1"), Outcome.LOST)

    said = desk.show("one").next_step
    desk.ledger.close()

    assert said.startswith("wait: it is tried again, on another VM if there is one, in about ")
