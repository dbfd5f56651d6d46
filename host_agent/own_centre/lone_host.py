"""A host that is its guests' centre, put together: VMs as any host has them, and for each guest its job from us."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from broker import durable
from host_agent.downloads import sha256_of
from host_agent.errors import CentreUnreadable, RegistryUnreadable
from host_agent.guests import Guests
from host_agent.house import HouseRules, VmHouse
from host_agent.hypervisors.contract import GuestPorts, Hypervisor, ImageSource
from host_agent.lock import DirectoryLock
from host_agent.own_centre.guest_job import GivenFile, GuestJob, GuestJobEnd
from host_agent.own_centre.job_order import JobOrder
from host_agent.own_centre.own_centre import OwnCentre
from host_agent.own_centre.own_inputs import OwnFiles, serve
from host_agent.own_centre.storage import GuestFiles
from host_agent.registry import VmRegistry
from host_agent.seeding import GuestSettings, no_broker
from schemas.description import MAX_INLINE_INPUT_BYTES, Input
from schemas.jobs import OutputEntry
from schemas.plain_text import plain
from schemas.vms import VmState

log = logging.getLogger(__name__)

#: What names the VMs of such a host: nobody but their own guests ever hears it.
ME = "host-alone"
#: How often a guest says how its job does, seconds: each time costs an emulated one 13 ms of its only processor.
BEAT_S = 3.0
#: How far from its end the last line of a console is looked for, bytes.
_CONSOLE_BYTES = 2000
#: An input that is not larger rides in the assignment, bytes.
_SMALL_BYTES = 4 << 10


class LoneHost:
    """See the module. ``open`` first, ``close`` last; its VMs live on then. One job at a time for each VM."""

    def __init__(
        self, directory: Path, hypervisor: Hypervisor, images: ImageSource, *, settings: dict[str, float]
    ) -> None:
        """``settings`` go to the guests, by name."""
        self._directory = directory
        guests = GuestSettings(1, {"beat_s": BEAT_S, **settings})
        registry = VmRegistry(directory / "vms.json")
        #: By a VM's name, before it is made: what of its guest is reached from this host.
        self.ports: dict[str, GuestPorts] = {}
        ports_of = lambda name: self.ports.get(name, GuestPorts())  # noqa: E731
        rules = HouseRules(host=ME, broker=None, guests=guests, images=images, ports_of=ports_of)
        self._house = VmHouse(directory, hypervisor, registry, no_broker, rules)
        self.hypervisor, self.control, self.statuses = hypervisor, self._house.control, self._house.statuses
        self.registry, self.images = registry, images
        # Nobody waits until a guest has heard the time: it may not be there yet.
        self.control.on_wake = lambda vm, is_new: self._house.guests.back(vm, is_new_generation=True)
        self._files = OwnFiles()
        self._inputs = self._house.guests.inputs = serve(self._files, hypervisor.capabilities.inputs)
        self._lock = DirectoryLock(directory)
        self._watching: asyncio.Task[None] | None = None
        #: Called between pieces of what takes long, in a thread: raises what breaks it off.
        self.refuse: Callable[[], None] = lambda: None
        #: Called when something has happened to a VM, or its job.
        self.on_change: Callable[[], None] = lambda: None

    @property
    def guests(self) -> Guests:
        """The roads to the guests."""
        return self._house.guests

    async def open(self) -> None:
        """Find the VMs that an earlier one has left, and have roads to those that run. Raises HostError, OSError."""
        durable.make_directory(self._directory)
        self._lock.take()
        try:
            await self._open()
        except BaseException:
            self._lock.release()
            raise
        self._watching = asyncio.create_task(self._house.guests.watch(self.statuses.states), name="guests")

    async def _open(self) -> None:
        """Open the house. A list of VMs that is damaged is worth nothing here: what belongs to it is removed."""
        try:
            await self._house.open(self._on_state)
        except RegistryUnreadable as error:
            log.error("%s: what it lists is removed", error)
            (self._directory / "vms.json").unlink()
            await self._house.open(self._on_state)
        for vm in self._house.aside.ids():
            await self.control.discard(vm)

    async def close(self) -> None:
        """Let go of all VMs; they live on."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._inputs.close()
        await self._house.guests.close()
        await self.statuses.close()
        await self.hypervisor.close()
        self._lock.release()

    async def order(self, vm: str, job: GuestJob, *, most_bytes: int) -> OwnCentre:
        """Have a guest do a job, whose outputs may take ``most_bytes``; one that it had before it is no matter any
        more. Before its VM runs, or as soon as it does. Raises JobRefused, OSError, and what ``refuse`` raises."""
        order = await asyncio.to_thread(self._order, job)
        inputs, paths = await asyncio.to_thread(_given, job.inputs, self.refuse)
        files = GuestFiles(job, paths, self._outputs(job), most_bytes, lambda: order.end is not None)
        centre = OwnCentre(vm, ME, order, inputs, files)
        centre.check()
        self._files.by_vm[vm] = paths
        centre.on_change = self._changed
        await self._house.guests.meet_anew(vm, centre)
        return centre

    def _order(self, job: GuestJob) -> JobOrder:
        """Take up what is kept of a job; where that is damaged it begins anew."""
        path = self._job_directory(job) / "order.json"
        try:
            return JobOrder(path, job)
        except CentreUnreadable as error:
            log.error("%s", error)
            path.unlink()
            return JobOrder(path, job)

    def output(self, job: GuestJob, end: GuestJobEnd, name: str) -> bytes | Path | None:
        """Give an output of a job that has ended, or the file in which it lies; None where it has left none."""
        entry = next((one for one in end.outputs if one.name == name), None)
        return self.content(job, entry) if entry is not None else None

    def content(self, job: GuestJob, entry: OutputEntry) -> bytes | Path | None:
        """Give what an output holds, or the file in which that lies; None where it never came."""
        if entry.content is not None:
            return entry.content
        path = GuestFiles(job, {}, self._outputs(job), 0).place(entry.name, entry.sha256)
        return path if path.is_file() else None

    def last_line(self, vm: str) -> str:
        """Give the last line of a VM's console, for people; empty where none is kept. Blocking, short."""
        serial = self.hypervisor.capabilities.serial_log
        if serial is None:
            return ""
        log_file = serial.file(vm)
        for path in (Path(f"{log_file}.tail"), log_file):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _CONSOLE_BYTES))
                if lines := file.read(_CONSOLE_BYTES).decode(errors="replace").strip().splitlines():
                    return plain(lines[-1])
        return ""

    async def forget(self, vm: str, job: GuestJob) -> None:
        """Be its guest's centre no more, and remove what is kept of a job. What cannot be removed is told."""
        self._files.by_vm.pop(vm, None)
        await self._house.guests.meet_anew(vm, None)
        try:
            await asyncio.to_thread(shutil.rmtree, self._job_directory(job))
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("what was kept of a job is not removed: %s", error)

    def _job_directory(self, job: GuestJob) -> Path:
        return self._directory / "jobs" / job.ref.replace("/", "_")

    def _outputs(self, job: GuestJob) -> Path:
        return self._job_directory(job) / "outputs"

    def _on_state(self, vm: str, state: VmState) -> None:
        log.warning("the virtual machine is %s by itself", state)
        self._changed()

    def _changed(self) -> None:
        self.on_change()


def _given(files: Sequence[GivenFile], refuse: Callable[[], None]) -> tuple[list[Input], dict[str, Path]]:
    """Give inputs as the guest is told of them, and by their SHA-256 those that it fetches: small ones ride along, as
    long as there is room for them. Raises OSError, and what ``refuse`` raises. Blocking."""
    inputs, paths, room = list[Input](), dict[str, Path](), MAX_INLINE_INPUT_BYTES
    for file in files:
        size = file.path.stat().st_size
        if size <= min(room, _SMALL_BYTES) and len(content := file.path.read_bytes()) == size:
            room -= size
            inputs.append(Input(name=file.name, size=size, content=content, executable=file.is_executable))
        else:
            sha256 = sha256_of(file.path, refuse)
            paths[sha256] = file.path
            inputs.append(Input(name=file.name, size=size, sha256=sha256, executable=file.is_executable))
    return inputs, paths
