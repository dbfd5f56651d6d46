"""QEMU as a driver: each VM a process of its own that outlives the agent, driven over QMP.

A VM is a directory: an overlay over the image's read-only disk, sockets, logs, the seed, and once saved its memory
and the command line that can load it. ``memory`` exists exactly while the VM is saved: it appears by a rename when
complete, and goes before the guest runs on, since then the disk no longer matches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from broker import durable
from host_agent.errors import HypervisorError, StopTimedOut
from host_agent.hypervisors import qemu_command
from host_agent.hypervisors.contract import Capabilities, StateListener, VmFacts, VmSpec
from host_agent.hypervisors.detached import ProcessIdentity, find_tree, send_signal, spawn, stat_of
from host_agent.hypervisors.directory import VmDirectories, read_record, write_record
from host_agent.hypervisors.qemu_command import MachineCommand
from host_agent.hypervisors.qemu_disk import create_overlay
from host_agent.hypervisors.qemu_machine import CONNECTED, LiveVm, Machine
from host_agent.hypervisors.qemu_memory import MEMORY, MEMORY_BEING_WRITTEN, read_memory, write_memory
from host_agent.hypervisors.qemu_program import QemuProgram
from host_agent.vm import Verb, VmState

#: From the start of the process until QMP answers; 0.1 s on an idle host.
START_TIMEOUT_S = 30.0
#: Between two looks for processes that were killed.
_LOOK_INTERVAL_S = 0.02

_COMMAND = "command.json"
_QEMU_LOG = "qemu.log"


class QemuHypervisor:
    """Runs VMs in QEMU, under KVM if a probe boot succeeds, else emulated."""

    name = "qemu"
    capabilities = Capabilities(verbs=frozenset(Verb), isolates=True, needs_image=True)

    def __init__(self, directory: Path, binary: str = "qemu-system-x86_64", accelerator: str | None = None) -> None:
        """``accelerator`` (``kvm`` or ``tcg``) saves the probe."""
        self._directories = VmDirectories(directory / "vms", self.name)
        self._program = QemuProgram(binary, directory, accelerator)
        self._live: dict[str, LiveVm] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: StateListener | None = None

    def broker_for_guest(self, host: str, port: int) -> tuple[str, int]:
        """See the contract. The guest has one address to reach, and our relay behind it."""
        return qemu_command.BROKER_ADDRESS, qemu_command.BROKER_PORT

    async def open(self, listener: StateListener) -> None:
        """Find out which QEMU this is, and attach to the VMs that live. Raises HypervisorError without QEMU."""
        self._listener = listener
        await self._program.identify()
        self._directories.sweep()
        for vm in self._directories.list():
            if vm not in self._live:
                await self._adopt(vm)

    async def close(self) -> None:
        """Let go of every VM; they run on."""
        self._listener = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        live, self._live = self._live, {}
        for found in live.values():
            if found.machine is not None:
                await found.machine.close()

    async def list(self) -> list[str]:
        """Name the VMs in order of creation."""
        return self._directories.list()

    async def state(self, vm: str) -> VmState:
        """Ask QEMU, or where none runs, the VM's directory."""
        live = self._live.get(vm)
        if live is None:
            return self._state_at_rest(vm)
        if live.machine is None:
            return VmState.STARTING
        state = await live.machine.state()
        if state is VmState.UNKNOWN and stat_of(live.machine.watch.identity) is None:
            # It ended while it was asked, and the news is on its way.
            await live.machine.watch.wait()
            return self._state_at_rest(vm)
        return state

    async def facts(self, vm: str) -> VmFacts:
        """Read them off the process."""
        process = self._directories.process(vm)
        stat = stat_of(process) if process is not None else None
        command = read_record(self._directories.path(vm) / _COMMAND, MachineCommand)
        if stat is None or command is None:
            return VmFacts()
        return VmFacts(
            pid=stat.pid,
            accelerator=command.accelerator,
            cpu_seconds=stat.cpu_seconds,
            resident_bytes=stat.resident_bytes,
        )

    async def create(self, spec: VmSpec) -> None:
        """Make the VM's directory with its overlay."""
        if self._directories.exists(spec.id):
            raise HypervisorError(f"there is already a VM {spec.id}")
        if spec.image is None or spec.image.disk is None:
            raise HypervisorError(f"VM {spec.id} needs an image with a disk")
        with self._directories.making(spec) as home:
            await create_overlay(home / qemu_command.OVERLAY, spec.image.disk.resolve(), spec.disk_mib)

    async def start(self, vm: str, seed: bytes) -> None:
        """Boot, or load the saved memory and go on."""
        spec, before = self._directories.spec(vm), self._directories.process(vm)
        self._write_seed(vm, seed)
        live = self._live[vm] = LiveVm()
        try:
            if self._is_saved(vm):
                await self._restore(vm, live)
            else:
                await self._boot(vm, live, spec)
        except (HypervisorError, OSError) as error:
            await self._abandon(vm, live, before)
            raise HypervisorError(f"cannot start {vm}: {error}") from error
        finally:
            live.told, live.is_busy = VmState.RUNNING, False

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Press the power button until the guest obeys."""
        machine = self._machine(vm)
        with self._verb(vm) as live:
            live.after_end = VmState.POWEREDOFF
            try:
                async with asyncio.timeout(timeout_s):
                    await machine.press_power_button()
            except TimeoutError as error:
                live.after_end = VmState.ABORTED
                raise StopTimedOut(f"{vm} did not shut down within {timeout_s} s; power it off") from error

    async def pause(self, vm: str) -> None:
        """Stop the virtual CPUs."""
        with self._verb(vm) as live:
            await self._machine(vm).execute("stop")
            live.told = VmState.PAUSED

    async def resume(self, vm: str) -> None:
        """Let the virtual CPUs go on."""
        with self._verb(vm) as live:
            await self._machine(vm).execute("cont")
            live.told = VmState.RUNNING

    async def reset(self, vm: str, seed: bytes) -> None:
        """End the process and start another: QEMU reads the seed for fw_cfg only when it starts."""
        await self.poweroff(vm)
        await self.start(vm, seed)

    async def poweroff(self, vm: str) -> None:
        """Let QEMU quit, or kill it if it does not."""
        if not self._directories.exists(vm):
            return
        live = self._live.get(vm)
        if live is not None and live.machine is not None:
            live.is_busy, live.after_end = True, VmState.POWEREDOFF
            await live.machine.quit()
        await self._kill_strays(vm)
        self._directories.forget_process(vm)

    async def savestate(self, vm: str) -> None:
        """Stop the guest, write its memory, end the process."""
        machine = self._machine(vm)
        with self._verb(vm) as live:
            before = await machine.state()
            await machine.execute("stop")
            try:
                await write_memory(machine)
            except (HypervisorError, OSError) as error:
                if before is VmState.RUNNING:
                    await machine.execute("cont")
                raise HypervisorError(f"cannot save {vm}: {error}") from error
            live.after_end = VmState.SAVED
            await machine.quit()
            self._directories.forget_process(vm)

    async def delete(self, vm: str) -> None:
        """Remove the VM's directory."""
        if vm in self._live:
            raise HypervisorError(f"VM {vm} runs; power it off first")
        await self._kill_strays(vm)
        await asyncio.to_thread(self._directories.remove, vm)

    async def offer_seed(self, vm: str, seed: bytes) -> None:
        """Write it for the next start, and send it to a guest that runs."""
        self._directories.spec(vm)
        self._write_seed(vm, seed)
        live = self._live.get(vm)
        if live is not None and live.machine is not None:
            live.machine.push_seed()

    async def _boot(self, vm: str, live: LiveVm, spec: VmSpec) -> None:
        home = self._directories.path(vm)
        accelerator = await self._program.choose_accelerator(spec.image.kernel if spec.image else None)
        command = qemu_command.build(self._program.binary, self._program.machine_type, accelerator, spec)
        write_record(home / _COMMAND, command)
        for name in (qemu_command.CONSOLE, _QEMU_LOG):
            with contextlib.suppress(FileNotFoundError):
                (home / name).replace(home / f"{name}.1")
        await self._launch(vm, live, command.arguments)

    async def _restore(self, vm: str, live: LiveVm) -> None:
        home = self._directories.path(vm)
        command = read_record(home / _COMMAND, MachineCommand)
        if command is None:
            raise HypervisorError(f"{home / _COMMAND} is missing; discard the saved state")
        machine = await self._launch(vm, live, qemu_command.restoring(command))
        await read_memory(machine)
        (home / MEMORY).unlink()
        await machine.execute("cont")

    async def _launch(self, vm: str, live: LiveVm, arguments: Sequence[str]) -> Machine:
        home = self._directories.path(vm)
        process = await asyncio.to_thread(spawn, vm, arguments, home, home / _QEMU_LOG)
        self._directories.remember_process(vm, process)
        live.machine = self._attach(vm, live, process)
        await live.machine.wait_connected(START_TIMEOUT_S)
        return live.machine

    async def _abandon(self, vm: str, live: LiveVm, before: ProcessIdentity | None) -> None:
        """Leave no process of a start that failed, and the state that was before."""
        await self._kill_strays(vm)
        if live.machine is not None:
            await live.machine.watch.wait()
        self._live.pop(vm, None)
        if before is None:
            self._directories.forget_process(vm)
        else:
            self._directories.remember_process(vm, before)

    async def _adopt(self, vm: str) -> None:
        process = self._directories.process(vm)
        (self._directories.path(vm) / MEMORY_BEING_WRITTEN).unlink(missing_ok=True)
        if self._is_saved(vm):
            # Saved and not yet ended, or not yet going on: its memory is on disk either way.
            await self._kill_strays(vm)
            self._directories.forget_process(vm)
        elif process is None or not self._resume_watching(vm, process):
            await self._kill_strays(vm)

    def _resume_watching(self, vm: str, process: ProcessIdentity) -> bool:
        live = LiveVm()
        try:
            live.machine = self._attach(vm, live, process)
        except ProcessLookupError:
            return False
        live.is_busy = False
        self._live[vm] = live
        return True

    def _attach(self, vm: str, live: LiveVm, process: ProcessIdentity) -> Machine:
        return Machine(
            self._directories.path(vm),
            process,
            lambda name, data: self._on_event(vm, live, name, data),
            lambda: self._on_end(vm, live),
        )

    def _on_event(self, vm: str, live: LiveVm, name: str, data: dict[str, Any]) -> None:
        if name == "SHUTDOWN" and data.get("guest"):
            has_powered_off = data.get("reason") == "guest-shutdown"
            self._spawn(self._lay_to_rest(live, VmState.POWEREDOFF if has_powered_off else VmState.ABORTED))
        elif name in (CONNECTED, "STOP", "RESUME", "GUEST_PANICKED"):
            self._spawn(self._look(vm, live))

    async def _look(self, vm: str, live: LiveVm) -> None:
        """Tell a state that nobody asked for; end a machine whose guest shut down while nobody watched."""
        if live.machine is None or live.is_busy:
            return
        state = await live.machine.state()
        if state is VmState.STOPPING:
            await self._lay_to_rest(live, VmState.POWEREDOFF)
        elif not live.is_busy and state not in (live.told, VmState.UNKNOWN):
            is_news, live.told = live.told is not None, state
            if is_news:
                self._tell(vm, state)

    async def _lay_to_rest(self, live: LiveVm, after_end: VmState) -> None:
        """End the process of a guest that has ended."""
        if live.machine is not None:
            live.after_end = after_end
            await live.machine.quit()

    def _on_end(self, vm: str, live: LiveVm) -> None:
        if self._live.get(vm) is live:
            del self._live[vm]
        if live.machine is not None:
            self._spawn(live.machine.close())
        if live.after_end is VmState.POWEREDOFF:
            self._directories.forget_process(vm)
        if not live.is_busy and live.after_end is not VmState.SAVED:
            self._tell(vm, live.after_end)

    async def _kill_strays(self, vm: str) -> None:
        """Kill what bears the VM's mark: a start that an agent did not live to write down, relays."""
        while strays := await asyncio.to_thread(find_tree, vm, self._directories.process(vm)):
            send_signal(strays, signal.SIGKILL)
            await asyncio.sleep(_LOOK_INTERVAL_S)

    def _state_at_rest(self, vm: str) -> VmState:
        if not self._directories.exists(vm):
            return VmState.ABSENT
        if self._is_saved(vm):
            return VmState.SAVED
        return VmState.POWEREDOFF if self._directories.process(vm) is None else VmState.ABORTED

    def _is_saved(self, vm: str) -> bool:
        return (self._directories.path(vm) / MEMORY).exists()

    def _write_seed(self, vm: str, seed: bytes) -> None:
        durable.replace(self._directories.path(vm) / qemu_command.SEED_FILE, qemu_command.encode_seed(seed))

    def _machine(self, vm: str) -> Machine:
        live = self._live.get(vm)
        if live is None or live.machine is None:
            raise HypervisorError(f"VM {vm} does not run")
        return live.machine

    @contextlib.contextmanager
    def _verb(self, vm: str) -> Iterator[LiveVm]:
        live = self._live.get(vm)
        if live is None:
            raise HypervisorError(f"VM {vm} does not run")
        live.is_busy = True
        try:
            yield live
        finally:
            live.is_busy = False

    def _tell(self, vm: str, state: VmState) -> None:
        if self._listener is not None:
            self._listener(vm, state)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
