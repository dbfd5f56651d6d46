"""What happens to VMs and hosts, in a whole system: seen by one who follows while its parts are killed and frozen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.running import System, running, until

#: The lease clock runs some way behind, and this machine may be slow.
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "2") as made:
        yield made


def volcloud(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "volcloud.main", *arguments, "--data", str(system.directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@contextmanager
def following(system: System, place: Path) -> Iterator[Path]:
    """Have a command that follows all events into a file, a line each."""
    command = [sys.executable, "-m", "volcloud.main", "vm", "events", "--follow", "--since", "0", "--json"]
    with place.open("wb") as lines:
        follower = subprocess.Popen([*command, "--data", str(system.directory)], stdout=lines, stderr=subprocess.STDOUT)
    try:
        yield place
        assert follower.poll() is None, place.read_text()
    finally:
        follower.terminate()
        follower.wait(30)


def seen(place: Path) -> list[dict[str, Any]]:
    """What has been told so far; a line that is being written is not there yet."""
    whole = place.read_text().rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in whole if line.startswith("{")]


def states(place: Path, name: str) -> list[str]:
    return [one["state"] for one in seen(place) if one.get("name") == name and one["event"] == "state"]


def of_host(place: Path, *, behind: str = "") -> list[str]:
    """What was told of the host, or what of it behind the last such event; nothing where there is none."""
    told = [one["event"] for one in seen(place) if one["event"].startswith("host_")]
    at = len(told) - told[::-1].index(behind) if behind in told else len(told) if behind else 0
    return told[at:]


def vms(system: System) -> dict[str, dict[str, Any]]:
    return {row["status"]["name"]: row for row in json.loads(volcloud(system, "vm", "list", "--json").stdout)}


def presence(system: System) -> str:
    with system.client() as client:
        return client.hosts.list()[0].presence


def test_one_who_follows_sees_each_event_once_while_adapter_and_broker_are_killed(
    system: System, tmp_path: Path
) -> None:
    with following(system, tmp_path / "events") as place:
        until(lambda: "running" in states(place, "worker-1"), "the start is told", PATIENCE_S)
        volcloud(system, "vm", "pause", "worker-1")
        system.kill("job_adapter-1")
        until(lambda: "paused" in states(place, "worker-1"), "the pause is told", PATIENCE_S)
        system.kill("broker")
        until(lambda: volcloud(system, "vm", "resume", "worker-1").returncode == 0, "resumed", PATIENCE_S)
        until(lambda: states(place, "worker-1")[-2:] == ["paused", "running"], "going on is told", PATIENCE_S)
        told = seen(place)

    numbers = [one["number"] for one in told]
    resumed = [one for one in told if one.get("name") == "worker-1" and one["state"] == "running"][-1]
    assert numbers == sorted(set(numbers))
    assert resumed["verb"] == "resume"
    assert resumed["by"].startswith("console-")
    with system.client() as client:
        page = client.vms.events(after=numbers[0] - 1)
        again = next(iter(client.vms.follow(after=numbers[0])))
    assert [one.number for one in page.events][: len(numbers)] == numbers
    assert getattr(again, "number", 0) == numbers[1]


def test_a_host_whose_agent_is_frozen_is_late_then_lost_then_back_and_its_paused_vm_is_told_from_a_silent_one(
    system: System, tmp_path: Path
) -> None:
    volcloud(system, "vm", "pause", "worker-1")
    guests = [pid for name, pid in system.processes().items() if name.startswith("guest-")]
    with following(system, tmp_path / "events") as place:
        until(lambda: states(place, "worker-1")[-1:] == ["paused"], "the pause is told", PATIENCE_S)
        system.freeze("host_agent")
        for pid in guests:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: presence(system) == "lost", "the host is lost", PATIENCE_S)
            until(lambda: vms(system)["worker-2"]["status"]["state"] == "lost", "its running VM is lost", PATIENCE_S)
            rows = vms(system)
            host = rows["worker-1"]["host"]
            listed, shown = volcloud(system, "vm", "list").stdout, volcloud(system, "host", "show", host).stdout
        finally:
            for pid in guests:
                os.kill(pid, signal.SIGCONT)
            system.thaw("host_agent")
        until(lambda: presence(system) == "present", "the host is back", PATIENCE_S)
        until(lambda: "host_back" in of_host(place, behind="host_lost"), "that is told", PATIENCE_S)
        told = of_host(place)

    assert rows["worker-1"]["status"]["state"] == "paused"
    assert {row["host_presence"] for row in rows.values()} == {"lost"}
    assert f"{host} (lost)" in listed
    assert "three beats missed" in shown
    # A host that beats twice a second may be late by itself on a busy machine.
    at = len(told) - 1 - told[::-1].index("host_lost")
    assert told[at - 1 : at + 2] == ["host_late", "host_lost", "host_back"]


def test_what_there_is_to_know_of_a_host_and_a_vm_is_shown(system: System) -> None:
    with system.client() as client:
        name = client.hosts.list()[0]
        host, vm = client.hosts.show(name.facts.hostname), client.vms.show("worker-2")
    people = volcloud(system, "vm", "show", "worker-2").stdout

    facts = host.host.facts
    assert facts.ports == ["statistics", "serial_log", "seed_medium", "roads", "inputs"]
    assert facts.network == "host"
    assert facts.taken is not None
    assert facts.taken.disk_mib >= 2 * 1024
    assert facts.disk_mib >= facts.free_disk_mib > 0
    assert {row.status.name for row in host.vms} == {"worker-1", "worker-2"}
    assert vm.host is not None
    assert vm.host.host == host.host.host
    assert [one.name for one in vm.events] == ["worker-2"] * len(vm.events) != []
    assert "last events" in people
    assert vm.vm.status.vm in people


def test_a_name_or_a_time_that_is_none_is_refused_in_words(system: System) -> None:
    nobody, since = volcloud(system, "host", "show", "nix"), volcloud(system, "vm", "events", "--since", "yesterday")
    both, vm = volcloud(system, "vm", "events", "--since", "1", "--last", "2"), volcloud(system, "vm", "show", "nix")

    assert (nobody.returncode, since.returncode, both.returncode, vm.returncode) == (1, 2, 2, 1)
    assert "no host is called 'nix'; known: host-" in nobody.stderr
    assert "'yesterday' must be the number of an event" in since.stderr
    assert "exclude each other" in both.stderr
    assert "no VM is called 'nix'" in vm.stderr
