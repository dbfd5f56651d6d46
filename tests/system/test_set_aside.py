"""A host agent whose registry is lost, in a whole system: nothing is deleted, people see it and decide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.management import Management
from broker.node import read_node_address
from tests.system.running import System, running, until


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "2") as made:
        yield made


def volcloud(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "volcloud.main", *arguments]
    environment = os.environ | {"VOLCLOUD_DATA": str(system.directory)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def listed(system: System) -> dict[str, Any]:
    rows = json.loads(volcloud(system, "vm", "list", "--json").stdout)
    return {row["status"]["name"]: row["status"] for row in rows if row["status"]["state"] != "absent"}


def lose_registry(system: System) -> None:
    """Have the agent killed and its registry lost, and another one start."""
    registry = system.layout.host / "vms.json"
    registry.unlink()
    system.kill("host_agent")
    until(
        lambda: {vm["state"] for vm in listed(system).values()} == {"set_aside"} and len(listed(system)) == 2,
        "both VMs are set aside",
    )


def test_vms_that_a_lost_registry_knew_are_set_aside_and_adopted_or_discarded(system: System) -> None:
    before = listed(system)
    lose_registry(system)
    shown = volcloud(system, "vm", "list").stdout
    pattern = volcloud(system, "vm", "discard", "worker-*")
    adopted = volcloud(system, "vm", "adopt", "worker-1")
    discarded = volcloud(system, "vm", "discard", "worker-2")

    gone = before["worker-2"]["vm"]
    until(lambda: gone not in {vm["vm"] for vm in listed(system).values()}, "worker-2 is gone")
    after = listed(system)["worker-1"]
    assert "set_aside" in shown
    assert pattern.returncode == 1
    assert "worker-2 was set aside, and discard would remove its disk" in pattern.stderr
    assert (adopted.returncode, discarded.returncode) == (0, 0)
    assert (after["vm"], after["state"], after["pid"]) == (
        before["worker-1"]["vm"],
        "running",
        before["worker-1"]["pid"],
    )
    assert after["autostart"]
    assert not Path(f"/proc/{before['worker-2']['pid']}").exists()
    assert not (system.layout.host / "hypervisor" / gone).exists()


def test_the_principal_of_a_discarded_vm_is_revoked_and_nothing_is_left_to_ask(system: System) -> None:
    address = read_node_address(system.layout.node)

    until(lambda: not json.loads((system.layout.host / "vms.json").read_bytes())["leaving"], "it was answered")
    users = [name for name in Management(address.administration).users.names() if name.startswith("vm-")]

    known = {vm["vm"] for vm in listed(system).values()}
    assert set(users) <= known
    assert listed(system)["worker-1"]["vm"] in users


def test_a_vm_whose_directory_is_away_for_one_start_is_missing_and_as_it_was_when_it_is_back(system: System) -> None:
    before = listed(system)["worker-1"]
    home, away = system.layout.host / "hypervisor" / before["vm"], system.directory / "away"
    home.rename(away)
    system.kill("host_agent")
    until(lambda: listed(system)["worker-1"]["state"] == "missing", "it is missing")
    shown = volcloud(system, "vm", "list").stdout
    refused = volcloud(system, "vm", "run", "worker-1", "--", "true")
    leaving = json.loads((system.layout.host / "vms.json").read_bytes())["leaving"]

    away.rename(home)
    until(lambda: listed(system)["worker-1"]["state"] == "running", "it is back")
    after = listed(system)["worker-1"]

    assert "not used" in shown
    assert "VM worker-1 is missing: its agent cannot answer" in refused.stderr
    assert f"{home} is not there: mount its disk" in refused.stderr
    assert leaving == []
    assert before["vm"] in Management(read_node_address(system.layout.node).administration).users.names()
    assert after["vm"] == before["vm"]
    # Its guest may have died of its files being away; then it was started again.
    assert (after["pid"] == before["pid"]) == (after["generation"] == before["generation"])


def test_the_vm_that_was_adopted_still_runs_commands(system: System) -> None:
    done = volcloud(system, "vm", "run", "worker-1", "--", "echo", "still here")

    assert (done.returncode, done.stdout) == (0, "still here\n")
