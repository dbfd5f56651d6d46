"""One VM of QEMU's, with a process or without: the verbs on it, and how the next agent finds it again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from broker.daemon.process_identity import ProcessIdentity
from host_agent.errors import HostDiskFull, HypervisorError, StopTimedOut, naming_disk
from host_agent.hypervisors.contract import GuestPorts, VmFacts
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.kept_snapshots import KeptSnapshot, SnapshotRecords
from host_agent.hypervisors.qemu.life import IO_ERROR, Life
from host_agent.hypervisors.qemu.memory_files import Saving
from host_agent.hypervisors.qemu.snapshot_jobs import clean
from host_agent.hypervisors.qemu.start import QemuStart
from host_agent.hypervisors.qemu.strays import QemuStrays
from schemas.vms import VmState

log = logging.getLogger(__name__)


class QemuVm:
    """See the module. What its methods leave behind is the contract's to say; ``tell`` hears what no verb caused."""

    def __init__(self, vm: str, files: QemuFiles, start: QemuStart, tell: Callable[[VmState], None]) -> None:
        self.id = vm
        self._files, self._start, self._tell = files, start, tell
        self._life: Life | None = None
        #: What may be left of it that has no process.
        self.strays = QemuStrays(vm, files)
        #: How its files are damaged: whether it runs is not known until it is powered off.
        self._flaw = ""

    @property
    def life(self) -> Life | None:
        """What happens in its process; None while it has none."""
        return self._life

    def running(self) -> Life:
        """Give its life. Raises HypervisorError if it does not run."""
        if self._life is None:
            raise HypervisorError(f"VM {self.id} does not run")
        return self._life

    async def attach(self) -> None:
        """Find its process; a VM whose files are damaged keeps no other from being found, and says why when asked."""
        if self._life is not None:
            return
        try:
            with naming_disk(f"cannot adopt {self.id}"):
                await self._adopt()
        except Exception as error:  # noqa: BLE001  whatever is left in its directory is its own trouble
            log.error("vm_not_adopted vm=%s error=%s", self.id, error)
            self._flaw = str(error) or repr(error)

    async def close(self) -> None:
        """Let go of it; it runs on."""
        await self.strays.close()
        life, self._life = self._life, None
        if life is not None:
            await life.close()

    async def state(self) -> VmState:
        """Ask QEMU, or where none runs, its directory."""
        if self._flaw:
            raise HypervisorError(self._flaw)
        return await self._life.state() if self._life is not None else self._files.state_at_rest(self.id)

    async def facts(self) -> VmFacts:
        """Read them off the process. In a thread: a disk that hangs holds up this one only."""
        return await asyncio.to_thread(_facts_of, self._files, self.id, self._life)

    async def start(self, seed: bytes, snapshot: KeptSnapshot | None = None) -> None:
        """Boot, or load the saved memory and go on; with a ``snapshot``, from whatever state, go back to that."""
        self._files.spec(self.id)
        before = self._files.process(self.id)
        self._files.write_seed(self.id, seed)
        if snapshot is not None:
            await self.poweroff()
        await self.strays.make_sure()
        life = self._life = self._new_life()
        life.news.begin()
        try:
            with naming_disk(f"cannot start {self.id}"):
                state = await self._start.bring_up(self.id, life, snapshot)
        except BaseException:
            await self._abandon(life, before)
            raise
        life.news.caused(state)
        life.finish()

    async def stop(self, timeout_s: float) -> None:
        """Press the power button until the guest obeys."""
        life = self.running()
        with life.verb() as machine:
            life.news.will_end(VmState.POWEREDOFF)
            try:
                async with asyncio.timeout(timeout_s):
                    await machine.press_power_button()
            except TimeoutError as error:
                raise StopTimedOut(f"{self.id} did not shut down within {timeout_s} s; power it off") from error
            finally:
                life.news.lives_on()

    async def pause(self) -> None:
        """Stop the virtual CPUs."""
        life = self.running()
        with life.verb() as machine:
            # Whoever finds it paused from now on knows that it was meant.
            self._files.goes_on(self.id)
            await machine.monitor.execute("stop")
            life.news.caused(VmState.PAUSED)

    async def resume(self) -> None:
        """Let the virtual CPUs go on; what failed on the disk is then tried again."""
        life = self.running()
        with life.verb() as machine:
            if await machine.run_state() == IO_ERROR and not life.has_room():
                raise HostDiskFull(life.why_stuck())
            await machine.monitor.execute("cont")
            life.news.caused(VmState.RUNNING)

    async def reset(self, seed: bytes) -> None:
        """End the process and start another: QEMU reads the seed for fw_cfg only when it starts. A VM of which it
        cannot be read how is not ended."""
        self._files.spec(self.id)
        await self.poweroff()
        await self.start(seed)

    async def poweroff(self) -> None:
        """Let QEMU quit, or kill it if it does not; what a VM has left whose directory is missing its mark finds."""
        life = self._life
        if life is not None and life.has_machine:
            with life.verb() as machine:
                life.news.will_end(VmState.POWEREDOFF)
                await machine.quit()
        await self.strays.kill()
        if self._files.exists(self.id):
            self._files.forget_process(self.id)
            self._files.forget_saving(self.id)
            await _clean_at_rest(self._files.path(self.id), self.strays)
        self._flaw = ""

    async def delete(self) -> None:
        """Remove its directory."""
        if self._life is not None:
            raise HypervisorError(f"VM {self.id} runs; power it off first")
        await self.strays.kill()
        with naming_disk(f"cannot delete {self.id}"):
            await asyncio.to_thread(self._files.remove, self.id)

    async def _abandon(self, life: Life, before: ProcessIdentity | None) -> None:
        """Leave no process of a start that failed, and the state that was before."""
        await self.strays.kill()
        if life.has_machine:
            await life.machine.kill()
        self._forget(life)
        with contextlib.suppress(OSError):
            self._files.forget_saving(self.id)
        if before is None:
            self._files.forget_process(self.id)
        else:
            with contextlib.suppress(OSError):
                self._files.remember_process(self.id, before)

    async def _adopt(self) -> None:
        process, saving = self._files.process(self.id), self._files.saving(self.id)
        self._files.drop_half_written(self.id)
        if self._files.is_saved(self.id):
            # Saved and not yet ended, or not yet going on: its memory is on disk either way.
            await self.strays.kill()
            self._files.forget_process(self.id)
            self._files.forget_saving(self.id)
        elif process is None or (saving and saving.restores) or not self._watch_again(process, saving):
            await self.strays.kill()
            self._files.forget_saving(self.id)
        if self._life is None:
            await _clean_at_rest(self._files.path(self.id), self.strays)

    def _watch_again(self, process: ProcessIdentity, saving: Saving | None) -> bool:
        life = self._new_life()
        try:
            life.attach(process)
        except ProcessLookupError:
            return False
        self._life = life
        life.clean_snapshots()
        if saving is not None:
            life.go_back_from_saving(was_running=saving.was_running)
        return True

    def _new_life(self) -> Life:
        return Life(self.id, self._files, self._tell, self._on_end)

    def _on_end(self, life: Life) -> None:
        if self._life is None or self._life is life:
            # However it ended, what it has started may go on.
            self.strays.kill_soon()
        self._forget(life)

    def _forget(self, life: Life) -> None:
        if self._life is life:
            self._life = None


async def _clean_at_rest(home: Path, strays: QemuStrays) -> None:
    """Remove what is void of a VM's snapshots; the program that does it may leave some of its own."""
    with contextlib.suppress(OSError):  # what cannot be read is not cleaned either
        if SnapshotRecords(home).voids():
            strays.may_come()
    await clean(home, None)


def _facts_of(files: QemuFiles, vm: str, life: Life | None) -> VmFacts:
    process, command, flaw = files.process(vm), files.command(vm), files.flaw(vm)
    if process is None or process.stat() is None or command is None:
        return VmFacts(reason=flaw)
    files.trim_logs(vm)
    return VmFacts(
        pid=process.pid,
        accelerator=command.accelerator,
        reason=(life.why_stuck() if life is not None else "") or flaw,
        may_go_on=life is not None and life.may_go_on(),
        ports=files.ports(vm) or GuestPorts(),
    )
