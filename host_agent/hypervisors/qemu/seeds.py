"""How a guest in QEMU gets its seed: by fw_cfg when it boots, and by a port of virtio-serial while it runs."""

from __future__ import annotations

from collections.abc import Callable

from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.vm import QemuVm


class QemuSeeds:
    """See the contract. ``find`` gives a VM by its id."""

    def __init__(self, find: Callable[[str], QemuVm], files: QemuFiles) -> None:
        self._find, self._files = find, files

    async def offer(self, vm: str, seed: bytes) -> None:
        """Write it for the next start, and send it to a guest that runs."""
        self._files.spec(vm)
        self._files.write_seed(vm, seed)
        life = self._find(vm).life
        if life is not None and life.has_machine:
            life.machine.push_seed()

    def newest(self, vm: str) -> bytes | None:
        """Read it from its file."""
        return self._files.read_seed(vm)
