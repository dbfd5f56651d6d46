"""Ending what an earlier supervisor left: by recorded pid and start time, in the order that loses nothing.

Host agent, its VMs, adapters, key manager, broker. Used after a supervisor was killed; one that lives stops its own.
Calls block.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from broker.daemon.process_identity import ProcessIdentity
from host_agent.hypervisors.detached import find_tree, send_signal
from volcloud.centre.layout import Layout
from volcloud.centre.plan import HOST_AGENT, KEY_MANAGER
from volcloud.centre.process_state import BROKER, SUPERVISOR, ProcessState, read_state, read_states
from volcloud.centre.source_plan import SOURCE_ADAPTER
from volcloud.errors import CommandFailed

Say = Callable[[str], None]

#: How long a process may take to end before it is killed, seconds.
PATIENCE_S = 20.0
#: How long the broker may take, seconds.
NODE_PATIENCE_S = 30.0
#: How long powering off every VM may take, seconds.
POWEROFF_S = 120.0
#: How long VMs that their driver cannot end may take until they are killed, seconds.
KILL_S = 20.0
_POLL_S = 0.05
_POWEROFF = "poweroff"


def live_supervisor(layout: Layout) -> ProcessState | None:
    """Give the supervisor that holds this data directory up; None when there is none."""
    state = read_state(layout.supervisor)
    return state if state is not None and state.is_alive else None


def live_processes(layout: Layout) -> list[ProcessState]:
    """Give every recorded process that runs, in the order in which they are to be ended; the node is not among them."""
    states = [state for state in read_states(layout.run) if state.is_alive and state.name != BROKER]
    return sorted(states, key=lambda state: _ORDER.get(state.name.partition("-")[0], 3))


_ORDER = {
    SUPERVISOR: 0,
    "image_build": 1,
    HOST_AGENT: 2,
    SOURCE_ADAPTER: 3,
    "storage_adapter": 3,
    "job_adapter": 4,
    KEY_MANAGER: 5,
}


def node_record(layout: Layout) -> ProcessIdentity | None:
    """Give the broker node's process if it runs."""
    record = ProcessIdentity.read(layout.node / "node.pid")
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
    """End every VM of this data directory's host; its agent must not run. Needs no broker.

    The driver does it, as it knows how; VMs that it cannot end, whatever is missing, are killed by their marks.
    Raises CommandFailed when some do not end even so.
    """
    if not (vms := registered_vms(layout)):
        return
    say("powering off the VMs")
    if _ask_driver(layout, say) != 0:
        say(f"the driver could not do it, see {layout.log(_POWEROFF)}: killing what is left of them")
        end_marked(vms)


def registered_vms(layout: Layout) -> set[Path]:
    """Give the directories of the VMs that this data directory's host has made; each bears its VM's id."""
    return {path.parent.resolve() for path in layout.vm_markers}


def end_marked(vms: Iterable[Path]) -> None:
    """Kill every process that bears the mark of one of these VMs, and what descends from it. Raises CommandFailed."""
    for vm in vms:
        deadline = time.monotonic() + KILL_S
        while pids := find_tree(vm, None):
            if time.monotonic() > deadline:
                raise CommandFailed(f"{vm.name} does not end: processes {sorted(pids)}", "`volcloud down` again")
            send_signal(pids, signal.SIGKILL)
            time.sleep(_POLL_S)


def _ask_driver(layout: Layout, say: Say) -> int:
    command = [sys.executable, "-m", "host_agent.main", "--config", str(layout.config(HOST_AGENT)), "--poweroff-all"]
    try:
        with layout.log(_POWEROFF).open("ab") as output:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=POWEROFF_S, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        return -1
    except OSError as error:
        say(f"the driver cannot be asked: {error}")
        return -1
