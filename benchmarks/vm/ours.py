"""Our contestant: the verbs of the public client on the one VM of a system."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from schemas.ledger import RegistryRow
from schemas.vms import VmState
from volcloud import Client

VM = "worker-1"
#: How often the registry is asked, and how long a guest may take under emulation on a busy machine, seconds.
POLL_S, PATIENCE_S = 0.02, 600.0


class Life(NamedTuple):
    """What one life of a VM took, seconds."""

    start_s: float
    savestate_s: float
    restore_s: float

    def __str__(self) -> str:
        return f"start {self.start_s:.2f} s, savestate {self.savestate_s:.2f} s, restore {self.restore_s:.2f} s"


def live(client: Client) -> Life:
    """Start the VM, which is off, until its agent is ready; save it, and start it from that, until each is answered."""
    start_s = timed(lambda: (client.vms.start(VM), wait_ready(client)))
    savestate_s = timed(lambda: client.vms.savestate(VM))
    restore_s = timed(lambda: client.vms.start(VM))
    wait_ready(client)
    return Life(start_s, savestate_s, restore_s)


def wait_ready(client: Client) -> None:
    """Wait until the registry says that the agent is ready."""
    _wait(client, lambda row: row.agent_ready and row.status.state is VmState.RUNNING, "ready")


def put_down(client: Client) -> None:
    """End the VM at once, and wait until the registry has forgotten its agent: the next one counts."""
    client.vms.poweroff(VM)
    _wait(client, lambda row: not row.agent_ready and row.status.state is VmState.POWEREDOFF, "off")


def disk_of(client: Client, data: Path) -> Path:
    """Give the directory of the VM in its driver."""
    vm = client.vms.get(VM).status.vm
    return next(path.parent for path in (data / "host").rglob("command.json") if path.parent.name == vm)


def timed(act: Callable[[], object]) -> float:
    """Give how long it takes, seconds."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _wait(client: Client, is_so: Callable[[RegistryRow], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so(client.vms.get(VM)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{VM} is not {what} in {PATIENCE_S:.0f} s")
        time.sleep(POLL_S)
