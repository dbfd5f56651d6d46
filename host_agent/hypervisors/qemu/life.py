"""One life of a VM in QEMU, from the start or adoption of its process to its end: what happens in it by itself.

A verb says what it is about to cause; everything else is news (``news``), and is told. Verbs are ``vm``'s, talking is
``machine``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.tasks import OwnedTasks
from host_agent.errors import HypervisorError
from host_agent.hypervisors.again import OneAtATime
from host_agent.hypervisors.news import News
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.hypervisors.qemu.kept_snapshots import SnapshotRecords
from host_agent.hypervisors.qemu.machine import START_TIMEOUT_S, QemuMachine
from host_agent.hypervisors.qemu.memory import LEAST_ROOM_BYTES, give_up_writing
from host_agent.hypervisors.qemu.monitor import CONNECTED
from host_agent.hypervisors.qemu.snapshot_jobs import clean
from schemas.vms import VmState

#: QEMU's word for a guest that was stopped because a read or write of its disk failed.
IO_ERROR = "io-error"
#: Why a guest is stuck, by QEMU's word.
_STUCK = {
    IO_ERROR: "a read or write of its disk failed on the host; `resume` lets it go on once that is mended",
    "guest-panicked": "the guest's kernel has panicked; `reset` boots it afresh",
    "internal-error": "QEMU met an error of its own; `reset` boots it afresh",
    "watchdog": "the guest's watchdog was not fed; `reset` boots it afresh",
}


class Life:
    """See the module. ``tell`` hears of states that nobody asked for, ``on_end`` of the end, whoever caused it."""

    def __init__(
        self, vm: str, files: QemuFiles, tell: Callable[[VmState], None], on_end: Callable[[Life], None]
    ) -> None:
        self._vm, self._files = vm, files
        self._tell, self._on_end = tell, on_end
        self._tasks = OwnedTasks(vm)
        self._machine: QemuMachine | None = None
        self._looks = OneAtATime(self._tasks, "look", self._look)
        self._ending: asyncio.Task[None] | None = None
        self.news = News()
        #: What it is while a verb has QEMU stand still, which answers nobody then; None: QEMU says it.
        self.shown: VmState | None = None

    @property
    def machine(self) -> QemuMachine:
        """The process. Raises HypervisorError before there is one."""
        if self._machine is None:
            raise HypervisorError(f"VM {self._vm} does not run")
        return self._machine

    @property
    def has_machine(self) -> bool:
        """Whether there is, or was, a process."""
        return self._machine is not None

    def attach(self, process: ProcessIdentity) -> QemuMachine:
        """Begin to watch the process. Raises ProcessLookupError if it has ended."""
        home, credential = self._files.path(self._vm), self._files.credential(self._vm)
        self._machine = QemuMachine(home, process, self._on_event, self._end, credential)
        return self._machine

    async def close(self) -> None:
        """Let go of the process, which goes on."""
        await self._tasks.cancel()
        if self._machine is not None:
            await self._machine.close()

    async def state(self) -> VmState:
        """Ask QEMU, and where it has ended meanwhile, the VM's directory."""
        if self.shown is not None:
            return self.shown
        if self._machine is None:
            return VmState.STARTING
        state = await self._machine.state()
        if state is VmState.UNKNOWN and self._machine.watch.identity.stat() is None:
            # It ended while it was asked, and the news is on its way.
            await self._machine.watch.wait()
            return self._files.state_at_rest(self._vm)
        return state

    def why_stuck(self) -> str:
        """Say why the guest was stuck when QEMU was last asked; empty if it was not."""
        word = self._machine.last_run_state if self._machine is not None else ""
        if word == IO_ERROR and not self.has_room():
            return f"its disk has no room left: {self._files.path(self._vm)}; it goes on once there is some"
        return _STUCK.get(word, "")

    def may_go_on(self) -> bool:
        """Whether what the guest is stuck on can be mended from outside."""
        return self._machine is not None and self._machine.last_run_state == IO_ERROR

    def has_room(self) -> bool:
        """Whether the host's disk under the VM has any room. Raises OSError."""
        return shutil.disk_usage(self._files.path(self._vm)).free >= LEAST_ROOM_BYTES

    @contextlib.contextmanager
    def verb(self, shown: VmState | None = None) -> Iterator[QemuMachine]:
        """Let a verb be at work: what happens meanwhile is its doing, but for an end that it did not mean."""
        machine = self.machine
        self.news.begin()
        self.shown = shown
        try:
            yield machine
        finally:
            self.finish()

    def finish(self) -> None:
        """The verb that is at work has ended: tell what it did not mean, and look how the VM is now."""
        self.shown = None
        self._pass_on(self.news.finish())
        if not self.news.has_ended:
            self._looks.ask()

    def go_back_from_saving(self, *, was_running: bool) -> None:
        """Bring a machine that was found being saved back to what it was, as soon as it can be reached."""
        self.news.begin()
        self._tasks.spawn(self._go_back(was_running), name="go back from saving")

    def clean_snapshots(self) -> None:
        """Remove what an agent before us has left of snapshots, as soon as the machine can be reached."""
        if SnapshotRecords(self._files.path(self._vm)).voids():
            self.news.begin()
            self._tasks.spawn(self._clean_snapshots(), name="clean snapshots")

    async def _clean_snapshots(self) -> None:
        with contextlib.suppress(HypervisorError), self.verb(VmState.SAVING) as machine:
            await machine.monitor.wait_connected(START_TIMEOUT_S)
            await clean(machine.home, machine)

    async def _go_back(self, was_running: bool) -> None:
        with contextlib.suppress(HypervisorError), self.verb() as machine:
            await machine.monitor.wait_connected(START_TIMEOUT_S)
            await give_up_writing(machine, runs_on=was_running)
            self._files.forget_saving(self._vm)
            self.news.caused(VmState.RUNNING if was_running else VmState.PAUSED)

    def _on_event(self, name: str, data: dict[str, Any]) -> None:
        if name == "SHUTDOWN" and data.get("guest"):
            has_powered_off = data.get("reason") == "guest-shutdown"
            after_end = VmState.POWEREDOFF if has_powered_off else VmState.ABORTED
            if self._ending is None or self._ending.done():
                self._ending = self._tasks.spawn(self._lay_to_rest(after_end), name="lay to rest")
        elif name in (CONNECTED, "STOP", "RESUME", "GUEST_PANICKED"):
            self._looks.ask()

    async def _look(self) -> None:
        """Tell a state that nobody asked for; end a machine whose guest shut down while nobody watched."""
        if self._machine is None or self.news.is_busy:
            return
        state = await self._machine.state()
        if state is VmState.STOPPING:
            await self._lay_to_rest(VmState.POWEREDOFF)
        else:
            self._pass_on(self.news.sees(state))

    async def _lay_to_rest(self, after_end: VmState) -> None:
        """End the process of a guest that has ended."""
        if self._machine is not None:
            self.news.will_end(after_end)
            await self._machine.quit()

    def _end(self) -> None:
        news = self.news.ends()
        self._on_end(self)
        if self._machine is not None:
            self._tasks.spawn(self._machine.close(), name="close")
        if self.news.after_end is VmState.POWEREDOFF:
            self._files.forget_process(self._vm)
        self._pass_on(news)

    def _pass_on(self, state: VmState | None) -> None:
        if state is not None:
            self._tell(state)
