"""Ending what an earlier supervisor left: by recorded pid and start time, in the order that loses nothing.

Host agent, its VMs, adapters, key manager, broker. Used after a supervisor was killed; one that lives stops its own.
Calls block.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from broker.process_record import ProcessRecord, read_record
from console.centre.layout import Layout, tail
from console.centre.plan import HOST_AGENT, KEY_MANAGER
from console.centre.process_state import ProcessState, read_state, read_states
from console.errors import CommandFailed

Say = Callable[[str], None]

#: How long a process may take to end before it is killed, seconds.
PATIENCE_S = 20.0
#: How long the broker may take, seconds.
NODE_PATIENCE_S = 30.0
#: How long powering off every VM may take, seconds.
POWEROFF_S = 120.0
SUPERVISOR = "supervisor"


def live_supervisor(layout: Layout) -> ProcessState | None:
    """Give the supervisor that holds this data directory up; None when there is none."""
    state = read_state(layout.supervisor)
    return state if state is not None and state.is_alive else None


def live_processes(layout: Layout) -> list[ProcessState]:
    """Give every recorded process that runs, in the order in which they are to be ended; the node is not among them."""
    states = [state for state in read_states(layout.run) if state.is_alive]
    return sorted(states, key=lambda state: _ORDER.get(state.name.partition("-")[0], 3))


_ORDER = {SUPERVISOR: 0, "image_build": 1, HOST_AGENT: 2, "storage_adapter": 3, "job_adapter": 4, KEY_MANAGER: 5}


def node_record(layout: Layout) -> ProcessRecord | None:
    """Give the broker node's process if it runs."""
    record = read_record(layout.node / "node.pid")
    return record if record is not None and record.is_alive() else None


def clean_up(layout: Layout, say: Say) -> None:
    """End everything that runs in a data directory. Idempotent. Raises CommandFailed when VMs cannot be ended."""
    if not any(layout.run.glob("*.json")) and node_record(layout) is None:
        return
    for state in live_processes(layout):
        say(f"stopping {state.name} (pid {state.record.pid})")
        state.record.end(PATIENCE_S)
    power_off_all(layout, say)
    node = node_record(layout)
    if node is not None:
        say(f"stopping the broker (pid {node.pid})")
        node.end(NODE_PATIENCE_S)
    for path in layout.run.glob("*.json"):
        path.unlink(missing_ok=True)


def power_off_all(layout: Layout, say: Say) -> None:
    """End every VM of this data directory's host; its agent must not run. Needs no broker."""
    if not layout.config(HOST_AGENT).exists():
        return
    say("powering off the VMs")
    log = layout.log("poweroff")
    command = [sys.executable, "-m", "host_agent.main", "--config", str(layout.config(HOST_AGENT)), "--poweroff-all"]
    with log.open("ab") as output:
        try:
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=POWEROFF_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    if status != 0:
        raise CommandFailed(f"VMs could not be powered off:\n{tail(log)}", f"see {log}, then `volcloud down` again")
