"""Signals to every process of a VM, in whatever group it is, until all are as they shall be."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.process_stat import read_stat
from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import find_tree, send_signal

#: Payloads that fork while they are being signalled are caught by another round; after this time we give up.
_DEADLINE_S = 10.0
#: Between two looks at /proc for an effect that nothing announces.
_LOOK_INTERVAL_S = 0.005
#: Looks in a row that find nobody: one that is about to become another program, whose parent was killed, bears no mark
#: for a moment.
_LOOKS_IN_VAIN = 2


async def signal_until(home: Path, process: ProcessIdentity | None, number: signal.Signals, wanted: str) -> None:
    """Signal all that belong to the VM in ``home`` until each is dead or in one of the run states ``wanted``.

    Raises HypervisorError that names those that do not obey.
    """
    deadline = asyncio.get_running_loop().time() + _DEADLINE_S
    looks_in_vain = 0
    while looks_in_vain < _LOOKS_IN_VAIN:
        others = await asyncio.to_thread(_find_in_other_state, home, process, wanted)
        if others and asyncio.get_running_loop().time() > deadline:
            raise HypervisorError(f"processes {sorted(others)} of {home.name} do not obey {number.name}")
        send_signal(others, number)
        looks_in_vain = 0 if others else looks_in_vain + 1
        if looks_in_vain < _LOOKS_IN_VAIN:
            await asyncio.sleep(_LOOK_INTERVAL_S)


def _find_in_other_state(home: Path, process: ProcessIdentity | None, wanted: str) -> set[int]:
    stats = [read_stat(pid) for pid in find_tree(home, process)]
    return {stat.pid for stat in stats if stat is not None and stat.run_state not in f"ZX{wanted}"}
