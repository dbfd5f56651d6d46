"""What a VM's user can do to the centre with messages alone: fill its share of the dead letters, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

from broker.daemon.process_identity import ProcessIdentity
from broker.offences import LETTERS
from tests.system.fuzzing import flood, reconnects, refused, stranger
from tests.system.running import System, running, until
from volcloud.centre.process_state import read_states

OPTIONS = ("--hypervisor", "process", "--vms", "0")
COUNT = 1200
SEED = 20261128


def dead_letters_of(system: System, user: str) -> int:
    command = [sys.executable, "-m", "volcloud.main", "dead", "list", "--json", "--data", str(system.directory)]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return sum(letter["sender"] == user for letter in json.loads(listed.stdout))


def processes(system: System) -> dict[str, int]:
    states = {state.name: state.record.pid for state in read_states(system.layout.run)}
    record = ProcessIdentity.read(system.layout.node / "node.pid")
    return {**states, "broker": record.pid if record else 0}


def test_a_flood_of_every_field_type_loses_no_link_and_is_all_counted() -> None:
    with running(*OPTIONS) as system, stranger(system) as vm:
        before, links = processes(system), reconnects(system.layout)
        logs_before = sum(path.stat().st_size for path in system.layout.logs.glob("*_adapter-*.log"))

        flood(vm, COUNT, SEED)
        until(lambda: refused(system.layout) >= COUNT, f"{COUNT} counted", 120)
        assert refused(system.layout) == COUNT

        kept = dead_letters_of(system, vm.user)
        assert LETTERS <= kept <= 2 * LETTERS + 5  # two kinds of adapters, each with a count of its own
        assert processes(system) == before
        assert reconnects(system.layout) == links
        with system.client() as client:
            assert client.jobs().jobs == []
        logs = sum(path.stat().st_size for path in system.layout.logs.glob("*_adapter-*.log"))
        assert logs - logs_before < 100_000
        until(lambda: "beyond its share" in _logs(system), "what was dropped is told with its count", 30)


def _logs(system: System) -> str:
    return "".join(path.read_text() for path in system.layout.logs.glob("*_adapter-*.log"))
