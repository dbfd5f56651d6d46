"""What happened to VMs and hosts in words for people, and since when they may ask."""

from __future__ import annotations

import time

import click
import pytest

from schemas.events import Event, EventKind
from schemas.ledger import RegistryRow
from schemas.vms import VmState, VmStatus
from volcloud.commands.vm_events import Since
from volcloud.rendering.events import event_line, what
from volcloud.rendering.vms import agent_of


@pytest.mark.parametrize("kind", EventKind)
def test_each_kind_of_event_has_words(kind: EventKind) -> None:
    words = what(Event(event=kind, host="host-1", vm="vm-1", was="running", state="paused")).plain

    assert words
    assert "_" not in words


def test_an_event_of_a_newer_centre_is_told_by_its_own_word() -> None:
    assert what(Event(event="teleported", host="host-1")).plain == "teleported"


def test_a_line_says_who_what_and_by_whom() -> None:
    event = Event(
        number=7,
        at_ms=1,
        event="state",
        host="host-1",
        vm="vm-1",
        name="a",
        was="running",
        state="paused",
        verb="pause",
    )

    assert event_line(event).endswith("  #7  a on host-1  running → paused  pause by its host agent")
    assert event_line(Event(number=8, event="host_lost", host="host-1", state="lost", why="3 beats missed")) == (
        "#8  host-1  host lost  3 beats missed"
    )


@pytest.mark.parametrize(
    ("state", "is_ready", "words"),
    [
        (VmState.RUNNING, True, "ready"),
        (VmState.RUNNING, False, "silent"),
        (VmState.PAUSED, True, "paused"),
        (VmState.PAUSED, False, "paused"),
        (VmState.SAVED, False, "saved"),
        (VmState.POWEREDOFF, False, "off"),
        (VmState.LOST, False, "silent"),
        (VmState.SET_ASIDE, False, "not used"),
    ],
)
def test_an_agent_whose_vm_is_paused_is_told_from_one_that_is_silent(
    state: VmState, is_ready: bool, words: str
) -> None:
    vm = VmStatus(vm="v", name="v", state=state, generation=1, hypervisor="", cpus=1, memory_mib=1, disk_mib=1)

    assert agent_of(RegistryRow(host="h", status=vm, seen_ms=1, agent_ready=is_ready)).plain == words


def test_a_number_an_age_and_a_date_say_since_when() -> None:
    read = Since().convert

    assert read("4711", None, None) == read("#4711", None, None) == (4711, 0)
    after, since_ms = read("2h", None, None)
    assert after == 0
    assert abs(time.time() * 1000 - 7_200_000 - since_ms) < 60_000
    assert read("2026-11-28T14:00+00:00", None, None) == (0, 1795874400000)
    assert read("9" * 30 + "d", None, None) == (0, 1)  # as long ago as there is


@pytest.mark.parametrize("wrong", ["", "yesterday", "-5", "2026-13-01", "12 parsecs"])
def test_what_says_no_time_is_refused_with_what_would(wrong: str) -> None:
    with pytest.raises(click.BadParameter, match="must be the number of an event"):
        Since().convert(wrong, None, None)
