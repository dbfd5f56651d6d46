"""A guest's memory saved to disk and thrown away. Loading it is part of a start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.qemu.files import QemuFiles, Saving
from host_agent.hypervisors.qemu.machine import QemuMachine
from host_agent.hypervisors.qemu.memory import give_up_writing, write_memory
from host_agent.hypervisors.qemu.vm import QemuVm
from schemas.vms import VmState


class QemuSnapshots:
    """See the contract. ``find`` gives a VM by its id."""

    def __init__(self, find: Callable[[str], QemuVm], files: QemuFiles) -> None:
        self._find, self._files = find, files

    async def savestate(self, vm: str) -> None:
        """Stop the guest, write its memory, end the process."""
        life = self._find(vm).running()
        with naming_disk(f"cannot save {vm}"), life.verb() as machine:
            saving = Saving(was_running=await machine.state() is VmState.RUNNING)
            self._files.note_saving(vm, saving)
            try:
                await machine.monitor.execute("stop")
                await write_memory(machine)
            except BaseException:
                await self._keep_unsaved(vm, machine, saving)
                raise
            life.news.will_end(VmState.SAVED)
            await machine.quit()
            self._files.forget_process(vm)
            self._files.forget_saving(vm)

    async def discard(self, vm: str) -> None:
        """Remove the saved memory."""
        if self._find(vm).life is not None:
            raise HypervisorError(f"VM {vm} runs; it has no saved state")
        with naming_disk(f"cannot discard the saved state of {vm}"):
            self._files.discard_memory(vm)
            self._files.forget_process(vm)

    async def _keep_unsaved(self, vm: str, machine: QemuMachine, saving: Saving) -> None:
        """Bring back what was before a save that failed, or was cut short. The next driver does it if we cannot."""
        with contextlib.suppress(HypervisorError):
            await give_up_writing(machine, runs_on=saving.was_running)
            self._files.forget_saving(vm)
