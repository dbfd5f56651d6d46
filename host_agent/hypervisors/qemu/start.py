"""How a VM's QEMU process comes to be: a boot, or a memory that was saved, or kept in a snapshot, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.tasks import OwnedTasks
from host_agent.advice import command
from host_agent.errors import HypervisorError, PortTaken
from host_agent.hypervisors.contract import GuestPorts
from host_agent.hypervisors.detached import finished, spawn
from host_agent.hypervisors.qemu import account_relays, relays, snapshot_jobs
from host_agent.hypervisors.qemu.accounts import for_kvm
from host_agent.hypervisors.qemu.command import QEMU_LOG, build, restoring, uses_kvm
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.handed import HandedFiles, handing
from host_agent.hypervisors.qemu.kept_snapshots import KeptSnapshot
from host_agent.hypervisors.qemu.life import Life
from host_agent.hypervisors.qemu.machine import START_TIMEOUT_S, QemuMachine
from host_agent.hypervisors.qemu.memory import read_memory
from host_agent.hypervisors.qemu.memory_files import Saving
from host_agent.hypervisors.qemu.monitor import last_words
from host_agent.hypervisors.qemu.ports import at_ports, is_of_a_port, settle
from host_agent.hypervisors.qemu.program import QemuProgram
from host_agent.hypervisors.vm_account import VmAccount
from host_agent.vm import Verb
from schemas.vms import VmState

log = logging.getLogger(__name__)

#: After how long a memory is removed from which a guest has gone on, seconds.
CLEAR_AFTER_S = 1.0


class QemuStart:
    """Starts processes and waits until the guest runs. Raises HypervisorError, OSError; what is left then is for the
    caller to remove."""

    def __init__(self, program: QemuProgram, files: QemuFiles, niceness: int) -> None:
        self._program, self._files, self._niceness = program, files, niceness
        self._clearing = OwnedTasks("used memories")

    async def close(self) -> None:
        """Leave what is to be removed to the next agent."""
        await self._clearing.cancel()

    async def bring_up(self, vm: str, life: Life, snapshot: KeptSnapshot | None) -> VmState:
        """Go on from a snapshot, else from the saved memory, else boot; give the state that it is in."""
        await snapshot_jobs.clean(self._files.path(vm), None)
        if snapshot is not None:
            return await self._go_back(vm, life, snapshot)
        await (self._restore if self._files.is_saved(vm) else self._boot)(vm, life)
        return VmState.RUNNING

    async def _boot(self, vm: str, life: Life) -> None:
        """Boot from the disk."""
        spec = self._files.spec(vm)
        accelerator = await self._program.choose_accelerator(spec.image.kernel if spec.image else None)
        command = build(self._program.binary, self._program.machine_type, accelerator, spec, self._files.devices(vm))
        self._files.begin_boot(vm, command)
        await self._launch(vm, life, command.arguments)

    async def _restore(self, vm: str, life: Life) -> None:
        """Load the saved memory and go on from it; it is gone then."""
        try:
            machine = await self._launch(vm, life, restoring(self._files.command_of_saved(vm)))
            await read_memory(machine)
        except PortTaken:
            raise
        except HypervisorError as error:
            advice = f"{command(Verb.DISCARD, vm)} throws it away, and the VM then boots afresh"
            raise HypervisorError(f"its saved state does not load: {error}; {advice}") from error
        # By this an agent that finds it paused knows that nobody paused it.
        self._files.use_up_memory(vm)
        await machine.monitor.execute("cont")
        self._files.goes_on(vm)
        self._clearing.spawn(self._clear(vm), name="clear")

    async def _clear(self, vm: str) -> None:
        """Remove the memory from which a guest has gone on, once that has been told; the next agent does it else."""
        await asyncio.sleep(CLEAR_AFTER_S)
        try:
            self._files.drop_used(vm)
        except OSError as error:
            log.warning("memory_not_removed vm=%s error=%s", vm, error)

    async def _go_back(self, vm: str, life: Life, snapshot: KeptSnapshot) -> VmState:
        """Take on a snapshot's disk and memory; a saved memory is gone then."""
        self._files.note_saving(vm, Saving(was_running=False, restores=True))
        machine = await self._launch(vm, life, [*snapshot.command.arguments, "-S"])
        # QEMU is not "paused" before it has run, if only for a moment; what that did goes with what is loaded.
        await machine.monitor.execute("cont")
        await machine.monitor.execute("stop")
        # From here on neither belongs to the disk any more.
        self._files.discard_memory(vm)
        self._files.note_command(vm, snapshot.command)
        life.shown = VmState.RESTORING
        try:
            await snapshot_jobs.load(machine, snapshot)
        except HypervisorError as error:
            advice = f"it is kept; {command(Verb.START, vm)} boots from the disk instead"
            raise type(error)(f"snapshot {snapshot.name} does not load: {error}; {advice}") from error
        if snapshot.was_running:
            await machine.monitor.execute("cont")
        self._files.forget_saving(vm)
        return snapshot.state

    async def _launch(self, vm: str, life: Life, arguments: Sequence[str]) -> QemuMachine:
        home, python = self._files.path(vm), await self._program.python()
        account = self._program.accounts.hand_over(home)
        relays.forget(home, account)
        ports = await asyncio.to_thread(settle, self._files.spec(vm).ports, self._files.ports(vm))
        self._files.note_ports(vm, ports)
        with _telling_ports(home):
            process = await self._spawn(vm, account, at_ports(arguments, ports), python, ports)
            self._files.remember_process(vm, process)
            return await _reached(life, process, home)

    async def _spawn(
        self, vm: str, account: VmAccount | None, arguments: list[str], python: str, ports: GuestPorts
    ) -> ProcessIdentity:
        home = self._files.path(vm)
        with contextlib.ExitStack() as closing:
            start = functools.partial(spawn, niceness=self._niceness)
            if account is not None:
                account = for_kvm(account) if uses_kvm(arguments) else account
                files = closing.enter_context(HandedFiles(account))
                arguments = self._handing(vm, home, arguments, files, python, ports)
                start = functools.partial(start, account=account, handed=files.descriptors)
            confined = [*arguments, *self._program.confinement]
            try:
                return await finished(asyncio.to_thread(start, home, confined, home, home / QEMU_LOG))
            except ChildProcessError as error:
                raise _ended_at_once(home) from error

    def _handing(
        self, vm: str, home: Path, arguments: Sequence[str], files: HandedFiles, python: str, ports: GuestPorts
    ) -> list[str]:
        """Give the command line of a QEMU that runs as the VM's account, its relays by that ``python``."""
        spec = msgspec.structs.replace(self._files.spec(vm), ports=ports)
        relay = [python, *account_relays.equip(home, Path(spec.broker))] if spec.broker else []
        return handing(arguments, home, spec, relay, files)


@contextlib.contextmanager
def _telling_ports(home: Path) -> Iterator[None]:
    """Raise PortTaken where QEMU has ended for a port, however soon: what it has printed within says so."""
    before = len(_printed(home))
    try:
        yield
    except HypervisorError as error:
        if is_of_a_port(_printed(home)[before:].decode(errors="replace")):
            raise PortTaken(str(error)) from error
        raise


def _printed(home: Path) -> bytes:
    """Give what QEMU has printed, which is bounded; nothing where that cannot be read."""
    try:
        return (home / QEMU_LOG).read_bytes()
    except OSError:
        return b""


def _ended_at_once(home: Path) -> HypervisorError:
    return HypervisorError(f"QEMU ended at once: {last_words(home)}")


async def _reached(life: Life, process: ProcessIdentity, home: Path) -> QemuMachine:
    """Give a QEMU that takes commands. Raises HypervisorError with its words where it has ended, however soon."""
    try:
        machine = life.attach(process)
    except ProcessLookupError as error:
        raise _ended_at_once(home) from error
    await machine.monitor.wait_connected(START_TIMEOUT_S)
    return machine
