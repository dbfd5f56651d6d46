"""QEMU as a driver: each VM a process of its own that outlives the agent, driven over QMP.

A VM is a directory: an overlay over the image's read-only disk, sockets, logs, the seed, and once saved its memory
and the command line that can load it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from pathlib import Path

from broker.daemon.process_identity import ProcessIdentity
from host_agent.errors import HypervisorError, NoRoom, StopTimedOut, naming_disk
from host_agent.hypervisors import qemu_command
from host_agent.hypervisors.contract import Capabilities, StateListener, VmFacts, VmSpec
from host_agent.hypervisors.detached import find_tree, send_signal
from host_agent.hypervisors.qemu_disk import create_overlay
from host_agent.hypervisors.qemu_files import QemuFiles, Saving
from host_agent.hypervisors.qemu_life import IO_ERROR, Life
from host_agent.hypervisors.qemu_machine import KILL_TIMEOUT_S, Machine
from host_agent.hypervisors.qemu_memory import give_up_writing, write_memory
from host_agent.hypervisors.qemu_program import QemuProgram
from host_agent.hypervisors.qemu_start import QemuStart
from host_agent.vm import Verb, VmState
from schemas.endpoints import Endpoint

log = logging.getLogger(__name__)

#: Between two looks for processes that were killed.
_LOOK_INTERVAL_S = 0.02


class QemuHypervisor:
    """Runs VMs in QEMU, under KVM if a probe boot succeeds, else emulated."""

    name = "qemu"
    capabilities = Capabilities(verbs=frozenset(Verb), isolates=True, needs_image=True)

    def __init__(
        self,
        directory: Path,
        binary: str = "qemu-system-x86_64",
        accelerator: str | None = None,
        *,
        niceness: int = 0,
    ) -> None:
        """``accelerator`` (``kvm`` or ``tcg``) saves the probe; ``niceness`` is how far guests give way to others."""
        self._files = QemuFiles(directory / "vms", self.name)
        self._program = QemuProgram(binary, directory, accelerator)
        self._start = QemuStart(self._program, self._files, niceness)
        self._lives: dict[str, Life] = {}
        #: VMs whose files are damaged, and how: whether they run is not known until they are powered off.
        self._not_adopted: dict[str, str] = {}
        self._listener: StateListener | None = None

    def road_for_guest(self) -> str:
        """See the contract."""
        return f"port:{qemu_command.ROAD_PORT}"

    def road(self, vm: str) -> Path | None:
        """See the contract."""
        return self._files.path(vm) / qemu_command.ROAD_SOCKET

    def endpoints_for_guest(self, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        """See the contract. The guest has one address to reach, and our relay behind it."""
        return (Endpoint(qemu_command.BROKER_ADDRESS, qemu_command.BROKER_PORT),)

    async def open(self, listener: StateListener) -> None:
        """Find out which QEMU this is, and attach to the VMs that live. Raises HypervisorError without QEMU."""
        self._listener = listener
        await self._program.identify()
        self._files.sweep()
        for vm in self._files.list():
            await self.attach(vm)

    async def attach(self, vm: str) -> None:
        """Find its process; a VM whose files are damaged keeps no other from being found, and says why when asked."""
        if vm in self._lives:
            return
        try:
            with naming_disk(f"cannot adopt {vm}"):
                await self._adopt(vm)
        except HypervisorError as error:
            log.error("vm_not_adopted vm=%s error=%s", vm, error)
            self._not_adopted[vm] = str(error)

    async def close(self) -> None:
        """Let go of every VM; they run on."""
        self._listener = None
        lives, self._lives = self._lives, {}
        await asyncio.gather(*(life.close() for life in lives.values()))

    async def list(self) -> list[str]:
        """Name the VMs in order of creation."""
        return self._files.list()

    async def state(self, vm: str) -> VmState:
        """Ask QEMU, or where none runs, the VM's directory."""
        if vm in self._not_adopted:
            raise HypervisorError(self._not_adopted[vm])
        life = self._lives.get(vm)
        return await life.state() if life is not None else self._files.state_at_rest(vm)

    async def facts(self, vm: str) -> VmFacts:
        """Read them off the process."""
        process = self._files.process(vm)
        stat = process.stat() if process is not None else None
        command = self._files.command(vm)
        flaw = self._files.flaw(vm)
        if stat is None or command is None:
            return VmFacts(reason=flaw)
        self._files.trim_logs(vm)
        life = self._lives.get(vm)
        return VmFacts(
            pid=stat.pid,
            accelerator=command.accelerator,
            cpu_seconds=stat.cpu_seconds,
            resident_bytes=stat.resident_bytes,
            reason=(life.why_stuck() if life is not None else "") or flaw,
            may_go_on=life is not None and life.may_go_on(),
            percent=life.machine.percent_written if life is not None else None,
        )

    def where(self, vm: str) -> str:
        """See the contract: its directory."""
        return str(self._files.path(vm))

    def spec(self, vm: str) -> VmSpec:
        """Read it from the marker."""
        return self._files.spec(vm)

    def seed(self, vm: str) -> bytes | None:
        """Read it from its file."""
        return self._files.read_seed(vm)

    async def create(self, spec: VmSpec) -> None:
        """Make the VM's directory with its overlay."""
        if self._files.exists(spec.id):
            raise HypervisorError(f"there is already a VM {spec.id}")
        if spec.image is None or spec.image.disk is None:
            raise HypervisorError(f"VM {spec.id} needs an image with a disk")
        with naming_disk(f"cannot make {spec.id}"), self._files.making(spec) as home:
            await create_overlay(home / qemu_command.OVERLAY, spec.image.disk.resolve(), spec.disk_mib)

    async def start(self, vm: str, seed: bytes) -> None:
        """Boot, or load the saved memory and go on."""
        self._files.spec(vm)
        before = self._files.process(vm)
        self._files.write_seed(vm, seed)
        life = self._lives[vm] = self._new_life(vm)
        try:
            with naming_disk(f"cannot start {vm}"):
                await (self._start.restore if self._files.is_saved(vm) else self._start.boot)(vm, life)
        except BaseException:
            await self._abandon(vm, life, before)
            raise
        life.told, life.is_busy = VmState.RUNNING, False

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Press the power button until the guest obeys."""
        life = self._life(vm)
        with life.verb() as machine:
            life.after_end = VmState.POWEREDOFF
            try:
                async with asyncio.timeout(timeout_s):
                    await machine.press_power_button()
            except TimeoutError as error:
                raise StopTimedOut(f"{vm} did not shut down within {timeout_s} s; power it off") from error
            finally:
                if not machine.watch.has_ended:
                    life.after_end = VmState.ABORTED

    async def pause(self, vm: str) -> None:
        """Stop the virtual CPUs."""
        life = self._life(vm)
        with life.verb() as machine:
            await machine.execute("stop")
            life.told = VmState.PAUSED

    async def resume(self, vm: str) -> None:
        """Let the virtual CPUs go on; what failed on the disk is then tried again."""
        life = self._life(vm)
        with life.verb() as machine:
            if await machine.run_state() == IO_ERROR and not life.has_room():
                raise NoRoom(life.why_stuck())
            await machine.execute("cont")
            life.told = VmState.RUNNING

    async def reset(self, vm: str, seed: bytes) -> None:
        """End the process and start another: QEMU reads the seed for fw_cfg only when it starts. A VM of which it
        cannot be read how is not ended."""
        self._files.spec(vm)
        await self.poweroff(vm)
        await self.start(vm, seed)

    async def poweroff(self, vm: str) -> None:
        """Let QEMU quit, or kill it if it does not; what a VM has left whose directory is missing its mark finds."""
        life = self._lives.get(vm)
        if life is not None and life.has_machine:
            life.is_busy, life.after_end = True, VmState.POWEREDOFF
            await life.machine.quit()
        await self._kill_strays(vm)
        if self._files.exists(vm):
            self._files.forget_process(vm)
            self._files.forget_saving(vm)
        self._not_adopted.pop(vm, None)

    async def savestate(self, vm: str) -> None:
        """Stop the guest, write its memory, end the process."""
        life = self._life(vm)
        with naming_disk(f"cannot save {vm}"), life.verb() as machine:
            saving = Saving(was_running=await machine.state() is VmState.RUNNING)
            self._files.note_saving(vm, saving)
            try:
                await machine.execute("stop")
                await write_memory(machine)
            except BaseException:
                await self._keep_unsaved(vm, machine, saving)
                raise
            life.after_end = VmState.SAVED
            await machine.quit()
            self._files.forget_process(vm)
            self._files.forget_saving(vm)

    async def discard(self, vm: str) -> None:
        """Remove the saved memory."""
        if vm in self._lives:
            raise HypervisorError(f"VM {vm} runs; it has no saved state")
        with naming_disk(f"cannot discard the saved state of {vm}"):
            self._files.discard_memory(vm)
            self._files.forget_process(vm)

    async def delete(self, vm: str) -> None:
        """Remove the VM's directory."""
        if vm in self._lives:
            raise HypervisorError(f"VM {vm} runs; power it off first")
        await self._kill_strays(vm)
        with naming_disk(f"cannot delete {vm}"):
            await asyncio.to_thread(self._files.remove, vm)

    async def offer_seed(self, vm: str, seed: bytes) -> None:
        """Write it for the next start, and send it to a guest that runs."""
        self._files.spec(vm)
        self._files.write_seed(vm, seed)
        life = self._lives.get(vm)
        if life is not None and life.has_machine:
            life.machine.push_seed()

    async def _keep_unsaved(self, vm: str, machine: Machine, saving: Saving) -> None:
        """Bring back what was before a save that failed, or was cut short. The next driver does it if we cannot."""
        with contextlib.suppress(HypervisorError):
            await give_up_writing(machine, runs_on=saving.was_running)
            self._files.forget_saving(vm)

    async def _abandon(self, vm: str, life: Life, before: ProcessIdentity | None) -> None:
        """Leave no process of a start that failed, and the state that was before."""
        await self._kill_strays(vm)
        self._files.forget_saving(vm)
        if life.has_machine:
            await life.machine.kill()
        self._lives.pop(vm, None)
        if before is None:
            self._files.forget_process(vm)
        else:
            with contextlib.suppress(OSError):
                self._files.remember_process(vm, before)

    async def _adopt(self, vm: str) -> None:
        process, saving = self._files.process(vm), self._files.saving(vm)
        self._files.drop_half_written(vm)
        if self._files.is_saved(vm):
            # Saved and not yet ended, or not yet going on: its memory is on disk either way.
            await self._kill_strays(vm)
            self._files.forget_process(vm)
            self._files.forget_saving(vm)
        elif process is None or not self._resume_watching(vm, process, saving):
            await self._kill_strays(vm)
            self._files.forget_saving(vm)

    def _resume_watching(self, vm: str, process: ProcessIdentity, saving: Saving | None) -> bool:
        life = self._new_life(vm)
        try:
            life.attach(process)
        except ProcessLookupError:
            return False
        life.is_busy = False
        self._lives[vm] = life
        if saving is not None:
            life.go_back_from_saving(was_running=saving.was_running)
        return True

    def _new_life(self, vm: str) -> Life:
        return Life(vm, self._files, functools.partial(self._tell, vm), lambda life: self._forget(vm, life))

    def _forget(self, vm: str, life: Life) -> None:
        if self._lives.get(vm) is life:
            del self._lives[vm]

    async def _kill_strays(self, vm: str) -> None:
        """Kill what bears the VM's mark: a start that an agent did not live to write down, relays. Raises
        HypervisorError if the kernel does not let them end."""
        deadline = asyncio.get_running_loop().time() + KILL_TIMEOUT_S
        while strays := await asyncio.to_thread(find_tree, self._files.path(vm), self._files.known_process(vm)):
            if asyncio.get_running_loop().time() > deadline:
                raise HypervisorError(f"processes {sorted(strays)} of {vm} do not end: the kernel holds them")
            send_signal(strays, signal.SIGKILL)
            await asyncio.sleep(_LOOK_INTERVAL_S)

    def _life(self, vm: str) -> Life:
        life = self._lives.get(vm)
        if life is None:
            raise HypervisorError(f"VM {vm} does not run")
        return life

    def _tell(self, vm: str, state: VmState) -> None:
        if self._listener is not None:
            self._listener(vm, state)
