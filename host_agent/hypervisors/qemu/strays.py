"""Processes that bear a VM's mark and are nobody's: a start that an agent did not live to write down, relays. Where the
VM has an account of its own, all that runs as that."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from broker.daemon.process_identity import ProcessIdentity
from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import find_tree, send_signal
from host_agent.hypervisors.qemu.account_processes import cut_off
from host_agent.hypervisors.qemu.accounts import handed_over
from host_agent.hypervisors.qemu.machine import KILL_TIMEOUT_S

#: Between two looks for processes that were killed.
_LOOK_INTERVAL_S = 0.02


async def kill_strays(home: Path, process: ProcessIdentity | None) -> None:
    """Kill all that belong to the VM in ``home``, and ``process`` with its own. Raises HypervisorError if the kernel
    does not let them end."""
    deadline = asyncio.get_running_loop().time() + KILL_TIMEOUT_S
    while strays := await asyncio.to_thread(_find, home, process):
        if asyncio.get_running_loop().time() > deadline:
            raise HypervisorError(f"processes {sorted(strays)} of {home.name} do not end: the kernel holds them")
        send_signal(strays, signal.SIGKILL)
        await asyncio.sleep(_LOOK_INTERVAL_S)


def _find(home: Path, process: ProcessIdentity | None) -> set[int]:
    uid = handed_over(home)
    return find_tree(home, process) | (cut_off(home, uid) if uid is not None else set())
