"""What a VM uses of the host, read off its QEMU."""

from __future__ import annotations

from collections.abc import Callable

from host_agent.hypervisors.contract import VmStatistics
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.vm import QemuVm


class QemuStatistics:
    """See the contract. ``find`` gives a VM by its id."""

    def __init__(self, find: Callable[[str], QemuVm], files: QemuFiles) -> None:
        self._find, self._files = find, files

    async def of(self, vm: str) -> VmStatistics:
        """Read them off the process, and how far its memory is from what QEMU said last."""
        process = self._files.process(vm)
        stat = process.stat() if process is not None else None
        if stat is None:
            return VmStatistics()
        life = self._find(vm).life
        return VmStatistics(
            cpu_seconds=stat.cpu_seconds,
            resident_bytes=stat.resident_bytes,
            percent_saved=life.machine.percent_written if life is not None and life.has_machine else None,
        )
