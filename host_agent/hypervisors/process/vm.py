"""One VM of the driver ``process``: a guest agent in a session of its own, and all that descends from it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.tasks import OwnedTasks
from host_agent.errors import HypervisorError, StopTimedOut, naming_disk
from host_agent.hypervisors.contract import VmFacts
from host_agent.hypervisors.detached import Watch
from host_agent.hypervisors.kept_log import trim
from host_agent.hypervisors.news import News
from host_agent.hypervisors.process.files import ProcessFiles
from host_agent.hypervisors.process.signals import signal_until
from host_agent.hypervisors.process.start import ProcessStart
from schemas.vms import VmState

log = logging.getLogger(__name__)


class ProcessVm:
    """See the module. What its methods leave behind is the contract's to say; ``tell`` hears what no verb caused."""

    def __init__(self, vm: str, files: ProcessFiles, start: ProcessStart, tell: Callable[[VmState], None]) -> None:
        self.id = vm
        self._files, self._start, self._tell = files, start, tell
        #: The process while it lives, and what is expected of it.
        self._watch: Watch | None = None
        self._news = News()
        self._burials = OwnedTasks(vm)

    async def attach(self) -> None:
        """Find its process; a VM whose files are damaged keeps no other from being found, and says why when asked."""
        if self._watch is not None:
            return
        try:
            with naming_disk(f"cannot adopt {self.id}"):
                await self._adopt()
        except HypervisorError as error:
            log.error("vm_not_adopted vm=%s error=%s", self.id, error)

    async def close(self) -> None:
        """Stop watching; the process goes on. A clean-up that has begun is finished."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        await self._burials.finish()

    async def state(self) -> VmState:
        """Read the state off the kernel's view of the process."""
        if not self._files.exists(self.id):
            return VmState.ABSENT
        process = self._files.process(self.id)
        if process is None:
            return VmState.POWEREDOFF
        stat = process.stat()
        if stat is None:
            return VmState.ABORTED
        return VmState.PAUSED if stat.run_state in "Tt" else VmState.RUNNING

    async def facts(self) -> VmFacts:
        """Say which process it is."""
        process, flaw = self._files.process(self.id), self._files.flaw(self.id)
        if process is None or process.stat() is None:
            return VmFacts(reason=flaw)
        trim(self._files.log_file(self.id))
        return VmFacts(pid=process.pid, accelerator="none", reason=flaw)

    async def start(self, seed: bytes) -> None:
        """Start the guest agent with ``seed``."""
        command = self._start.prepare(self.id, seed)
        before = self._files.process(self.id)
        try:
            with naming_disk(f"cannot start {command[0]}"):
                await self._start.launch(self.id, command)
                self._begin_watch()
        except BaseException:
            await self._undo_start(before)
            raise

    async def stop(self, timeout_s: float) -> None:
        """Send SIGTERM to the guest agent, and end what it leaves behind."""
        if self._watch is not None:
            with self._ending():
                await _end_politely(self.id, self._watch, timeout_s)
        await self.poweroff()

    async def pause(self) -> None:
        """Stop every process, in whatever group it is."""
        await self._signal_until(signal.SIGSTOP, "Tt")

    async def resume(self) -> None:
        """Continue every process."""
        await self._signal_until(signal.SIGCONT, "RSDI")

    async def reset(self, seed: bytes) -> None:
        """Kill and start again; a VM of which it cannot be read how is not killed."""
        self._files.spec(self.id)
        await self.poweroff()
        await self.start(seed)

    async def poweroff(self) -> None:
        """Kill every process, also of a VM whose directory is missing: its mark finds them."""
        with self._ending():
            await self._kill()
            if self._files.exists(self.id):
                self._files.forget_process(self.id)

    async def delete(self) -> None:
        """Remove its directory, and any process that escaped so far."""
        if await self.state() in (VmState.RUNNING, VmState.PAUSED):
            raise HypervisorError(f"VM {self.id} runs; power it off first")
        await self.poweroff()
        await self._burials.finish()
        await asyncio.to_thread(self._files.remove, self.id)

    async def _adopt(self) -> None:
        try:
            self._begin_watch()
        except ProcessLookupError:
            await self._kill()

    def _begin_watch(self) -> None:
        process = self._files.process(self.id)
        if process is None:
            raise ProcessLookupError(f"VM {self.id} has no process")
        self._watch, self._news = Watch(process, self._has_ended), News()

    async def _undo_start(self, before: ProcessIdentity | None) -> None:
        """Leave no process of a start that failed or was cut short, and the state that was before."""
        with self._ending():
            await self._kill()
        if before is None:
            self._files.forget_process(self.id)
        else:
            with contextlib.suppress(OSError):
                self._files.remember_process(self.id, before)

    def _has_ended(self) -> None:
        self._watch = None
        state = self._news.ends()
        if state is not None:
            self._burials.spawn(self._bury(state), name="burial")

    async def _bury(self, state: VmState) -> None:
        """End what a dead guest agent left behind, as a crashing machine ends all that runs on it."""
        try:
            await self._kill()
        except HypervisorError as error:
            log.error("leftovers_survive vm=%s error=%s", self.id, error)
        self._tell(state)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Let an end of the process be our doing for as long as the block runs."""
        news = self._news
        news.begin()
        news.will_end(VmState.POWEREDOFF)
        try:
            yield
        finally:
            news.lives_on()
            news.finish()

    async def _kill(self) -> None:
        """Kill rounds of processes until none is found, and wait until our watch has seen the end."""
        await self._signal_until(signal.SIGKILL, "")
        if self._watch is not None:
            await self._watch.wait()

    async def _signal_until(self, number: signal.Signals, wanted: str) -> None:
        await signal_until(self._files.path(self.id), self._files.known_process(self.id), number, wanted)


async def _end_politely(vm: str, watch: Watch, timeout_s: float) -> None:
    watch.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(timeout_s):
            await watch.wait()
    except TimeoutError as error:
        raise StopTimedOut(f"the guest agent of {vm} did not end within {timeout_s} s; power it off") from error
