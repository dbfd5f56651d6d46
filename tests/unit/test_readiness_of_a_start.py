"""A start waits for the VMs that it can have, and not for those about which only a person can decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.ledger import HostRow, RegistryRow
from schemas.vms import HostFacts, VmState, VmStatus
from volcloud.centre.plan import Names, Plan
from volcloud.centre.readiness import Beginning, _missing_machines

NAMES = Names(host="host-a")
FACTS = HostFacts(hostname="h", platform="p", cpus=1, memory_mib=1, free_disk_mib=1, hypervisor="process")


def row(name: str, state: str, *, generation: int, seen_ms: int = 2000, is_ready: bool = True) -> RegistryRow:
    status = VmStatus(
        vm=f"vm-{name}",
        name=name,
        state=VmState(state),
        generation=generation,
        hypervisor="process",
        cpus=1,
        memory_mib=1,
        disk_mib=1,
        reason="its disk is not there" if state == "missing" else "",
    )
    return RegistryRow(host="host-a", status=status, seen_ms=seen_ms, agent_ready=is_ready)


class Centre:
    """What a client hears of one host and its VMs."""

    def __init__(self, *rows: RegistryRow) -> None:
        host = HostRow(host="host-a", facts=FACTS, seen_ms=2000, present=True)
        self.hosts, self.vms = Listed([host]), Listed(rows)


class Listed:
    """What such a client lists of one noun."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = list(rows)

    async def list(self) -> Sequence[Any]:
        return self._rows


async def missing(tmp_path: Path, *rows: RegistryRow) -> str:
    plan = Plan(data=str(tmp_path), hypervisor="process", vms=2)
    beginning = Beginning(at_ms=1000, generations={"vm-worker-1": 1, "vm-worker-2": 1})
    client: Any = Centre(*rows)
    return await _missing_machines(client, plan, NAMES, beginning)


@pytest.mark.parametrize("state", ["missing", "set_aside"])
async def test_a_vm_that_waits_for_a_persons_word_holds_up_no_start(tmp_path: Path, state: str) -> None:
    one, other = row("worker-1", state, generation=1, is_ready=False), row("worker-2", "running", generation=2)

    assert await missing(tmp_path, one, other) == ""


async def test_what_was_said_of_it_before_the_start_does_not_count(tmp_path: Path) -> None:
    old = row("worker-1", "missing", generation=1, seen_ms=500, is_ready=False)

    assert await missing(tmp_path, old, row("worker-2", "running", generation=2)) == "VMs: 1 of 2 running, 1 ready"
