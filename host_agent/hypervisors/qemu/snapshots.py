"""A guest's memory saved to disk and thrown away; snapshots taken, restored, removed. Loading is part of a start."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from broker import durable, reserve
from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.detached import finished
from host_agent.hypervisors.qemu.command import OVERLAY
from host_agent.hypervisors.qemu.files import QemuFiles, taken_bytes
from host_agent.hypervisors.qemu.kept_snapshots import KeptSnapshot, SnapshotRecords, new_tag
from host_agent.hypervisors.qemu.machine import QemuMachine
from host_agent.hypervisors.qemu.memory import MEMORY, give_up_writing, write_memory
from host_agent.hypervisors.qemu.memory_files import Saving
from host_agent.hypervisors.qemu.ports import again_for_ports
from host_agent.hypervisors.qemu.snapshot_jobs import clean, clean_at_rest, clean_live, save
from host_agent.hypervisors.qemu.vm import QemuVm
from schemas.vms import VmSnapshot, VmState


class QemuSnapshots:
    """See the contract. ``find`` gives a VM by its id."""

    def __init__(self, find: Callable[[str], QemuVm], files: QemuFiles) -> None:
        self._find, self._files = find, files

    async def savestate(self, vm: str) -> None:
        """Stop the guest, write its memory, end the process."""
        life = self._find(vm).running()
        with naming_disk(f"cannot save {vm}"), life.verb() as machine:
            saving = Saving(was_running=await machine.state() is VmState.RUNNING)
            self._make_room(vm)
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
        # A start comes soon, as a rule, and would wait for it.
        await self._find(vm).strays.all_gone()

    async def discard(self, vm: str) -> None:
        """Remove the saved memory."""
        if self._find(vm).life is not None:
            raise HypervisorError(f"VM {vm} runs; it has no saved state")
        with naming_disk(f"cannot discard the saved state of {vm}"):
            self._files.discard_memory(vm)
            self._files.forget_process(vm)

    async def take(self, vm: str, name: str) -> None:
        """Have QEMU write it, and note it once it is complete."""
        life, records = self._find(vm).running(), self._records(vm)
        with naming_disk(f"cannot take snapshot {name} of {vm}"), life.verb(VmState.SAVING) as machine:
            snapshot = await self._begin(machine, vm, name)
            self._make_room(vm)
            try:
                with durable.naming(records.home):
                    reserve.demand(records.home, self._most_bytes(vm))
                records.begin(snapshot)
                await save(machine, snapshot)
                await finished(asyncio.to_thread(records.complete, snapshot))
            except asyncio.CancelledError:
                raise  # whoever ends the VM, or finds it next, cleans up: QEMU cannot be told to stop
            except BaseException:
                await self._clean_up(vm, machine)
                raise

    async def restore(self, vm: str, name: str, seed: bytes) -> None:
        """End the process and start another, from it: the one that runs may be of another command line."""
        snapshot = self._records(vm).get(name)
        await again_for_ports(lambda: self._find(vm).start(seed, snapshot))

    async def delete(self, vm: str, name: str) -> None:
        """Make it void, then remove what is."""
        records = self._records(vm)
        with naming_disk(f"cannot delete snapshot {name} of {vm}"):
            was = records.make_void(name)
            life = self._find(vm).life
            if life is None:
                await self._find(vm).strays.kill()
                self._find(vm).strays.may_come()
                await clean_at_rest(records.home, was)
            else:
                with life.verb() as machine:
                    await clean_live(machine)

    async def list(self, vm: str) -> list[VmSnapshot]:
        """Read their records."""
        with naming_disk(f"snapshots of {vm}"):
            return self._records(vm).told()

    async def kept_bytes(self, vm: str) -> int:
        """Add up the memories, and what snapshots have the overlay hold beyond the disk that the guest has."""
        with naming_disk(f"snapshots of {vm}"):
            return await asyncio.to_thread(self._kept_bytes, vm)

    def _kept_bytes(self, vm: str) -> int:
        home, disk_bytes = self._files.path(vm), self._files.spec(vm).disk_mib << 20
        memories = sum(taken_bytes(path) for path in home.glob(f"{MEMORY}*"))
        return memories + max(0, taken_bytes(home / OVERLAY) - disk_bytes)

    def _make_room(self, vm: str) -> None:
        """Remove a memory from which the guest has just gone on: another is to be written."""
        self._files.goes_on(vm)
        self._files.drop_used(vm)

    async def _begin(self, machine: QemuMachine, vm: str, name: str) -> KeptSnapshot:
        return KeptSnapshot(
            name=name,
            tag=new_tag(),
            taken_ms=time.time_ns() // 1_000_000,
            was_running=await machine.state() is VmState.RUNNING,
            command=self._files.command_of_saved(vm),
        )

    async def _clean_up(self, vm: str, machine: QemuMachine) -> None:
        """Remove what is left of one that failed, also where QEMU has ended, which its monitor may say before."""
        if not machine.watch.has_ended:
            await clean(machine.home, machine)
        if machine.watch.has_ended:
            # First: what cleans up at rest runs as the VM's account too.
            with contextlib.suppress(HypervisorError):
                await self._find(vm).strays.kill()
            self._find(vm).strays.may_come()
            await clean(machine.home, None)

    def _most_bytes(self, vm: str) -> int:
        """Say what a VM's memory may take on the disk: what it has never touched takes nothing."""
        whole, process = self._files.spec(vm).memory_mib << 20, self._files.process(vm)
        stat = process.stat() if process is not None else None
        return min(whole, stat.resident_bytes) if stat is not None else whole

    def _records(self, vm: str) -> SnapshotRecords:
        return SnapshotRecords(self._files.path(vm))

    async def _keep_unsaved(self, vm: str, machine: QemuMachine, saving: Saving) -> None:
        """Bring back what was before a save that failed, or was cut short. The next driver does it if we cannot."""
        with contextlib.suppress(HypervisorError):
            await give_up_writing(machine, runs_on=saving.was_running)
            self._files.forget_saving(vm)
