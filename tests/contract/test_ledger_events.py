"""What happened to VMs and hosts: told once, in order, bounded, and found by number whoever is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, text

from adapters.errors import LedgerError, NotFound
from adapters.ledger import guest_events, happenings, history, inventory, leases, retention, showing, tables
from adapters.ledger.retention import Keep
from adapters.ledger.transaction import Tx
from schemas.events import Event, EventList, Events, HostShow, VmShow
from schemas.jobs import JobBeat
from schemas.vms import HostBye, HostInventory, VmActed, VmGone
from tests.contract.ledger_fixtures import FACTS, Cluster, Desk, cluster, desk, fresh_sqlite, status, url

__all__ = ["cluster", "desk", "url"]


def asked(desk: Desk, **fields: object) -> Events:
    return desk.ledger.read(lambda tx: history.events(tx, EventList(**fields)))  # type: ignore[arg-type]


def told(desk: Desk, pattern: str = "*") -> list[tuple[str, str, str, str]]:
    return [(one.event, one.name or one.host, one.was, one.state) for one in asked(desk, pattern=pattern).events]


def beat(desk: Desk, vm: str, generation: int = 1) -> None:
    desk.ledger.write_lightly(lambda tx: leases.renew(tx, vm, JobBeat(id=desk.id(), generation=generation, holding=[])))


def pass_beats(desk: Desk, beats: float) -> None:
    desk.pass_s(beats * desk.policy.beat_s)
    desk.keep_time()


def test_the_life_of_a_vm_is_told_with_who_did_what(desk: Desk) -> None:
    made, paused = VmActed(verb="create", by="console-ada", at_ms=1), VmActed(verb="pause", by="console-bob", at_ms=2)
    desk.report("host-1", status("vm-1", "poweredoff", 0, acted=made))
    desk.report("host-1", status("vm-1", "running", 1, acted=VmActed(verb="start", at_ms=2)))
    desk.ask("vm-1")
    desk.report("host-1", status("vm-1", "paused", 1, acted=paused))
    desk.report("host-1", status("vm-1", "aborted", 1, acted=paused, reason="QEMU ended with signal 9"))
    desk.report("host-1", status("vm-1", "set_aside", 1))
    gone = HostInventory(host=FACTS, vms=[], at_ms=desk.now_ms, gone=[VmGone(vm="vm-1", by="console-eve")])
    desk.write(lambda tx: inventory.report(tx, "host-1", gone))

    rows = asked(desk, pattern="vm-1").events

    assert [(one.event, one.was, one.state, one.verb, one.by) for one in rows] == [
        ("made", "", "poweredoff", "create", "console-ada"),
        ("state", "poweredoff", "running", "start", ""),
        ("agent_ready", "", "speaks", "", ""),
        ("state", "running", "paused", "pause", "console-bob"),
        ("state", "paused", "aborted", "", ""),
        ("set_aside", "aborted", "set_aside", "", ""),
        ("deleted", "set_aside", "absent", "delete", "console-eve"),
    ]
    assert rows[4].why == "QEMU ended with signal 9"
    assert [one.generation for one in rows] == [0, 1, 1, 1, 1, 1, 1]
    assert {one.name for one in rows} == {"1-name"}
    assert rows == sorted(rows, key=lambda one: one.number)


def test_a_report_that_says_nothing_new_is_no_event(desk: Desk) -> None:
    for _ in range(3):
        desk.report("host-1", status("vm-1"), status("vm-2", "paused"))

    assert [event for event, *_ in told(desk)] == ["host_present", "made", "made"]


def test_a_vm_that_was_booted_anew_between_two_reports_is_told(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", "running", 1))
    desk.report("host-1", status("vm-1", "running", 2))

    assert told(desk, "vm-1")[-1] == ("state", "1-name", "running", "running")


def test_a_host_is_told_to_be_late_lost_back_and_gone_once_each(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", "saved"))
    for _ in range(3):
        pass_beats(desk, 2.2)
    desk.report("host-1", status("vm-1", "saved"))
    for _ in range(2):
        desk.ledger.write_lightly(lambda tx: inventory.bye(tx, "host-1", HostBye(reason="agent stops")))
    pass_beats(desk, 5)
    desk.report("host-1", status("vm-1", "saved"))

    assert [(event, was, now) for event, _, was, now in told(desk, "host-1") if event != "made"] == [
        ("host_present", "", "present"),
        ("host_late", "", "late"),
        ("host_lost", "", "lost"),
        ("host_back", "lost", "present"),
        ("host_bye", "present", "absent"),
        ("host_back", "absent", "present"),
    ]


def test_a_host_that_was_silent_for_long_between_two_looks_was_late_before_it_was_lost(desk: Desk) -> None:
    desk.report("host-1")
    pass_beats(desk, 10)

    assert [event for event, *_ in told(desk)] == ["host_present", "host_late", "host_lost"]


def test_while_nothing_can_be_heard_no_host_is_late(desk: Desk) -> None:
    desk.report("host-1")
    desk.ledger._lease_clock = lambda: 1_000_000_000_000
    pass_beats(desk, 100)

    assert [event for event, *_ in told(desk)] == ["host_present"]


def test_a_silent_agent_is_told_and_one_whose_vm_is_paused_is_not(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"), status("vm-2"))
    for vm in ("vm-1", "vm-2"):
        desk.ask(vm)
    desk.report("host-1", status("vm-1"), status("vm-2", "paused"))
    pass_beats(desk, 3.5)
    beat(desk, "vm-1")

    agents = [(event, name) for event, name, *_ in told(desk) if event.startswith("agent")]

    assert agents == [
        ("agent_ready", "1-name"),
        ("agent_ready", "2-name"),
        ("agent_silent", "1-name"),
        ("agent_ready", "1-name"),
    ]


def test_a_guest_of_which_no_host_has_spoken_is_nobodys_event(desk: Desk) -> None:
    desk.ask("vm-1")
    pass_beats(desk, 4)
    beat(desk, "vm-1")

    nobodys = told(desk)
    desk.report("host-1", status("vm-1"))

    assert nobodys == []
    assert [event for event, *_ in told(desk)] == ["host_present", "made", "agent_ready"]


def follow(desk: Desk, pattern: str, limit: int) -> list[int]:
    """Ask page by page, as a console does."""
    numbers: list[int] = []
    page = asked(desk, pattern=pattern, limit=limit)
    while True:
        numbers += [one.number for one in page.events]
        if page.next >= page.last:
            return numbers
        page = asked(desk, pattern=pattern, limit=limit, after=page.next)


@pytest.mark.parametrize("pattern", ["*", "1-*", "vm-1", "1-name", "host-1", "no-such-*"])
def test_pages_hold_each_event_once_in_order(desk: Desk, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "READ_AT_ONCE", 4)
    monkeypatch.setattr(history, "MOST_WALKED", 8)
    for number in range(12):
        states = ("running", "paused") if number % 2 else ("paused", "running")
        desk.report("host-1", *(status(f"vm-{n}", states[n % 2]) for n in range(3)))
    of_vm_1 = {"1-*", "vm-1", "1-name"}

    whole = asked(desk).events
    fitting = [one.number for one in whole if pattern in ("*", "host-1") or (pattern in of_vm_1 and one.vm == "vm-1")]

    assert follow(desk, pattern, 3) == fitting
    assert [one.number for one in asked(desk, pattern=pattern, newest=2).events] == fitting[-2:]


def test_events_of_another_adapter_and_after_a_restart_go_on_in_number(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    seen = asked(desk)
    other = Desk(desk.ledger._url, instance="adapter-other")
    other.now_ms = desk.now_ms + 1000
    other.report("host-1", status("vm-1", "paused"))
    other.ledger.close()

    page = asked(desk, after=seen.next)

    assert [one.state for one in page.events] == ["paused"]
    assert page.events[0].number > seen.events[-1].number
    assert page.ledger == seen.ledger


def flap(desk: Desk, host: str, times: int, vm: str = "vm-1") -> None:
    for number in range(times):
        desk.report(host, status(vm, "running" if number % 2 else "paused"))


def test_of_one_vm_the_last_are_kept_and_what_was_removed_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "MOST_OF_VM", 5)
    desk.report("host-1", status("vm-2"))
    first = asked(desk)
    flap(desk, "host-1", 9)

    page = asked(desk, after=first.next)

    of_vm_1 = asked(desk, pattern="vm-1").events
    assert len(of_vm_1) == 5
    assert of_vm_1[-1].state == "paused"
    assert page.removed > first.next
    assert page.removed < of_vm_1[0].number
    assert asked(desk, after=page.next).removed < page.next


def test_a_host_and_all_together_have_no_more_rows_than_they_may(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "MOST_OF_HOST", 10)
    for number in range(30):
        desk.report("host-1", status(f"vm-{number % 7}", "running" if number % 2 else "paused"))
    of_host = len(asked(desk).events)
    monkeypatch.setattr(happenings, "MOST_IN_ALL", 6)
    desk.report("host-2")

    kept = desk.ledger.read(lambda tx: tx.execute(select(tables.happening_numbers.c.kept)).scalar_one())
    assert of_host == 10
    assert len(asked(desk).events) == kept == 6


def test_a_stranger_who_tells_without_end_is_left_out_and_that_is_told(desk: Desk) -> None:
    most = happenings.EACH_VM * desk.policy.vms_of_host + happenings.BESIDE
    statuses = [[status(f"vm-{n}", state) for n in range(100)] for state in ("running", "paused")]
    for number in range(20):
        desk.report("host-1", *statuses[number % 2])
    desk.report("host-2", status("vm-honest"))
    kept = asked(desk, pattern="host-1", newest=1).events
    counts_honest = told(desk, "host-2")

    desk.pass_s(happenings.WHILE_MS / 1000)
    desk.report("host-1", *statuses[0])

    assert kept[0].event == "left_out"
    assert f"more than {most} events in 600 s" in kept[0].why
    assert [event for event, *_ in counts_honest] == ["host_present", "made"]
    summary = [one for one in asked(desk, pattern="host-1", newest=200).events if one.event == "left_out"]
    assert len(summary) == 2
    assert summary[1].why == f"{20 * 100 + 1 - most} events of this host were left out"


def test_a_guest_that_begins_anew_without_end_costs_its_host_no_event(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(happenings, "BESIDE", -happenings.EACH_VM * desk.policy.vms_of_host + 10)
    desk.report("host-1", status("vm-1"), status("vm-2"))
    for generation in range(1, 40):
        beat(desk, "vm-1", generation)
    beat(desk, "vm-2")
    desk.report("host-1", status("vm-1"), status("vm-2", "paused"))
    of_vm_1 = [event for event, *_ in told(desk, "vm-1")]
    of_vm_2 = [(event, now) for event, _, _, now in told(desk, "vm-2")]

    desk.pass_s(guest_events.WHILE_MS / 1000)
    beat(desk, "vm-1", 50)

    assert of_vm_1 == ["made", *["agent_ready"] * guest_events.MOST_IN_WHILE, "left_out"]
    assert of_vm_2 == [("made", "running"), ("agent_ready", "speaks"), ("state", "paused")]
    assert told(desk, "vm-1")[-1][0] == "agent_ready"
    assert [one.event for one in asked(desk, pattern="host-1").events if not one.vm] == ["host_present"]


def test_events_go_by_age_and_a_follower_hears_of_it(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"))
    old = asked(desk)
    desk.pass_s(31 * 86400)
    desk.report("host-1", status("vm-1", "paused"))

    kind = next(one for one in retention.kinds(Keep()) if one.what == "events")
    found = desk.ledger.read(kind.find)
    gone = desk.ledger.write(lambda tx: kind.remove(tx, found))

    page = asked(desk)
    assert gone == 2
    assert page.removed == old.last
    assert page.events[0].number > old.last
    assert desk.ledger.read(kind.find) == []


def test_what_happened_since_a_time_is_found(desk: Desk) -> None:
    flap(desk, "host-1", 3)  # paused, running, paused
    desk.pass_s(60)
    since_ms = desk.now_ms
    flap(desk, "host-1", 2)

    # The first report after it said what the last before it had said.
    assert [one.state for one in asked(desk, since_ms=since_ms).events] == ["running"]
    assert asked(desk, since_ms=since_ms + 1).events == []
    assert asked(desk, since_ms=since_ms + 1).next == asked(desk).last


def test_words_of_a_stranger_are_cut_and_readable(desk: Desk) -> None:
    desk.report("host-1", status("vm-1", "stuck", reason="a\0b" + "x" * 900, name="n\0"))

    event = asked(desk, pattern="vm-1").events[0]

    assert len(event.why) == 300
    assert "\0" not in event.why + event.name


def test_what_is_rolled_back_has_not_happened(desk: Desk) -> None:
    def work(tx: Tx) -> None:
        tx.tell(Event(event="made", host="host-1", vm="vm-1"))
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        desk.ledger.write(work)

    assert told(desk) == []


def test_nobody_is_given_a_number_while_a_lower_one_cannot_be_seen_yet(cluster: Cluster) -> None:
    """On PostgreSQL; SQLite has one writer at a time."""
    url = cluster.create()
    desk, other = Desk(url), Desk(url, instance="adapter-other")

    def hurried(tx: Tx) -> None:
        tx.execute(text("SET LOCAL lock_timeout = '100ms'"))
        tx.tell(Event(event="made", host="host-2", vm="vm-2"))

    def slow(tx: Tx) -> None:
        tx.tell(Event(event="made", host="host-1", vm="vm-1"))
        happenings.write(tx)
        with pytest.raises(LedgerError, match="lock timeout"):
            other.ledger.write(hurried)
        assert told(other) == []

    desk.ledger.write(slow)
    other.ledger.write(hurried)

    assert [(one.number, one.vm) for one in asked(desk).events] == [(1, "vm-1"), (2, "vm-2")]
    for one in (desk, other):
        one.ledger.close()


def test_one_host_and_one_vm_are_shown_whole(desk: Desk) -> None:
    desk.report("host-1", status("vm-1"), status("vm-2", "paused"))
    desk.report("host-2", status("vm-3"))
    desk.pass_s(2.5 * desk.policy.beat_s)

    host = desk.ledger.read(lambda tx: showing.host(tx, HostShow(host="host-1")))
    vm = desk.ledger.read(lambda tx: showing.vm(tx, VmShow(vm="vm-2")))

    assert (host.host.presence, host.host.vms, [row.status.vm for row in host.vms]) == ("late", 2, ["vm-1", "vm-2"])
    assert [one.event for one in host.events] == ["host_present", "made", "made"]
    assert (vm.vm.status.state, vm.vm.host_presence, [one.vm for one in vm.events]) == ("paused", "late", ["vm-2"])
    assert vm.host is not None
    assert vm.host.facts == FACTS
    for work in (lambda tx: showing.host(tx, HostShow(host="host-9")), lambda tx: showing.vm(tx, VmShow(vm="vm-9"))):
        with pytest.raises(NotFound, match="no such"):
            desk.ledger.read(work)


def test_a_number_is_not_given_twice_after_a_power_cut(tmp_path: Path) -> None:
    """What SQLite had not put on the disk is gone then, and a process begins anew: it leaves numbers out."""
    url = fresh_sqlite(tmp_path)
    first = Desk(url)
    first.report("host-1")
    shown = asked(first).last
    first.ledger.close()

    again = Desk(url)
    again.report("host-2")

    assert asked(again).last >= shown + happenings.SKIPPED
    again.report("host-3")
    assert asked(again).events[-1].number == asked(again).events[-2].number + 1
    again.ledger.close()
