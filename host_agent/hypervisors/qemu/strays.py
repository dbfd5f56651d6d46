"""Processes that bear a VM's mark and are nobody's: a start that an agent did not live to write down, relays. Where the
VM has an account of its own, all that runs as that."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.tasks import OwnedTasks
from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import find_tree, send_signal
from host_agent.hypervisors.qemu import account_killer
from host_agent.hypervisors.qemu.account_processes import cut_off, is_shared
from host_agent.hypervisors.qemu.accounts import handed_over
from host_agent.hypervisors.qemu.disk import run
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.machine import KILL_TIMEOUT_S

log = logging.getLogger(__name__)

#: Between two looks for processes that were killed.
_LOOK_INTERVAL_S = 0.02
#: Looks in a row that find nobody: one that is about to become another program, whose parent was killed, bears no mark
#: for a moment.
_LOOKS_IN_VAIN = 2


class QemuStrays:
    """The strays of one VM. Whoever kills them has ended before another begins: what is started after that is none."""

    def __init__(self, vm: str, files: QemuFiles) -> None:
        self._vm, self._files = vm, files
        self._tasks = OwnedTasks(f"strays of {vm}")
        self._killing = asyncio.Lock()
        self._are_due = False
        #: A process may have begun since they were killed last; so it is when nobody has killed them yet.
        self._may_be = True

    async def kill(self) -> None:
        """Kill all there are. Raises HypervisorError if they do not end."""
        async with self._killing:
            await self._kill()

    async def make_sure(self) -> None:
        """Leave none before a process begins: where none has begun since they were killed, there are none. Raises as
        ``kill`` does."""
        async with self._killing:
            if self._may_be or self._are_due:
                await self._kill()
            self._may_be = True

    async def all_gone(self) -> None:
        """Wait until those are killed that were to be soon. Trouble is logged."""
        await self._kill_if_due()

    def may_come(self) -> None:
        """A program is about to run for the VM, beside its own process: it may leave some."""
        self._may_be = True

    def kill_soon(self) -> None:
        """The VM's process has ended: kill what it has left, unless somebody does before. Trouble is logged."""
        self._are_due = True
        self._tasks.spawn(self._kill_if_due(), name="kill")

    async def close(self) -> None:
        """Leave what is left to the next agent."""
        await self._tasks.cancel()

    async def _kill(self) -> None:
        self._may_be = not await kill_strays(self._files.path(self._vm), self._files.known_process(self._vm))
        self._are_due = False

    async def _kill_if_due(self) -> None:
        async with self._killing:
            try:
                if self._are_due:
                    await self._kill()
            except (HypervisorError, OSError) as error:
                log.error("strays_left vm=%s error=%s", self._vm, error)


async def kill_strays(home: Path, process: ProcessIdentity | None) -> bool:
    """Kill all that belong to the VM in ``home``, and ``process`` with its own; say whether it is sure that nobody is
    left. Raises HypervisorError if they do not end in time, with the reason."""
    # Before any look: what is another process at every moment no look finds.
    trouble = await _kill_account(home)
    deadline = asyncio.get_running_loop().time() + KILL_TIMEOUT_S
    strays: set[int] = set()
    looks_in_vain = 0
    while looks_in_vain < _LOOKS_IN_VAIN and asyncio.get_running_loop().time() <= deadline:
        strays = await asyncio.to_thread(_find, home, process)
        looks_in_vain = 0 if strays or trouble else looks_in_vain + 1
        send_signal(strays, signal.SIGKILL)
        if looks_in_vain < _LOOKS_IN_VAIN:
            await asyncio.sleep(_LOOK_INTERVAL_S)
        if looks_in_vain == 0:
            trouble = await _kill_account(home)
    if strays:
        why = trouble or "the kernel holds them, or they start others faster than they are killed"
        raise HypervisorError(f"processes {sorted(strays)} of {home.name} do not end: {why}")
    if trouble:
        # Nobody is found, and what is there to be done with the VM does not wait for ever.
        log.error("account_not_killed vm=%s error=%s", home.name, trouble)
    return looks_in_vain >= _LOOKS_IN_VAIN


async def _kill_account(home: Path) -> str:
    """Kill all that runs as a VM's account, if it has one of its own, at once: what is killed one after another forks
    meanwhile, or is not found. Say what kept us from it."""
    uid = handed_over(home)
    if uid is None or await asyncio.to_thread(is_shared, home, uid):
        return ""
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            # As root until it is about to kill: the account may not be able to come to our Python.
            await run(sys.executable, "-I", "-S", account_killer.__file__, str(uid))
    except (HypervisorError, OSError, TimeoutError) as error:
        return f"nobody could become user {uid} to kill them: {error}"
    return ""


def _find(home: Path, process: ProcessIdentity | None) -> set[int]:
    uid = handed_over(home)
    return find_tree(home, process) | (cut_off(home, uid) if uid is not None else set())
