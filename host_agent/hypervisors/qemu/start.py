"""How a VM's QEMU process comes to be: a boot, or a saved memory that is loaded and goes on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from host_agent.advice import command
from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import finished, spawn
from host_agent.hypervisors.qemu import relays
from host_agent.hypervisors.qemu.command import QEMU_LOG, build, restoring
from host_agent.hypervisors.qemu.files import QemuFiles, Saving
from host_agent.hypervisors.qemu.life import Life
from host_agent.hypervisors.qemu.machine import START_TIMEOUT_S, QemuMachine
from host_agent.hypervisors.qemu.memory import read_memory
from host_agent.hypervisors.qemu.program import QemuProgram
from host_agent.vm import Verb


class QemuStart:
    """Starts processes and waits until the guest runs. Raises HypervisorError, OSError; what is left then is for the
    caller to remove."""

    def __init__(self, program: QemuProgram, files: QemuFiles, niceness: int) -> None:
        self._program, self._files, self._niceness = program, files, niceness

    async def boot(self, vm: str, life: Life) -> None:
        """Boot from the disk."""
        spec = self._files.spec(vm)
        accelerator = await self._program.choose_accelerator(spec.image.kernel if spec.image else None)
        command = build(self._program.binary, self._program.machine_type, accelerator, spec, self._files.devices(vm))
        self._files.begin_boot(vm, command)
        await self._launch(vm, life, command.arguments)

    async def restore(self, vm: str, life: Life) -> None:
        """Load the saved memory and go on from it; it is gone then."""
        try:
            machine = await self._launch(vm, life, restoring(self._files.command_of_saved(vm)))
            await read_memory(machine)
        except HypervisorError as error:
            advice = f"{command(Verb.DISCARD, vm)} throws it away, and the VM then boots afresh"
            raise HypervisorError(f"its saved state does not load: {error}; {advice}") from error
        # Without the note an agent that is killed now would leave a VM paused that nobody paused.
        self._files.note_saving(vm, Saving(was_running=True))
        self._files.discard_memory(vm)
        await machine.monitor.execute("cont")
        self._files.forget_saving(vm)

    async def _launch(self, vm: str, life: Life, arguments: Sequence[str]) -> QemuMachine:
        home = self._files.path(vm)
        relays.forget(home)
        start = functools.partial(spawn, niceness=self._niceness)
        confined = [*arguments, *self._program.confinement]
        process = await finished(asyncio.to_thread(start, home, confined, home, home / QEMU_LOG))
        self._files.remember_process(vm, process)
        machine = life.attach(process)
        await machine.monitor.wait_connected(START_TIMEOUT_S)
        return machine
