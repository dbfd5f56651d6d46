"""One QEMU process that lives: what it is told, how it is, and the news of its end.

Verbs are ``vm``'s; this says to QEMU what they are made of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.tasks import OwnedTasks
from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import Watch
from host_agent.hypervisors.qemu.account_relays import keep_told
from host_agent.hypervisors.qemu.console import keep_console
from host_agent.hypervisors.qemu.monitor import EventListener, Monitor
from host_agent.hypervisors.qemu.seed_port import HostSeedPort
from schemas.vms import VmState

log = logging.getLogger(__name__)

#: From the start of the process until QMP answers; 0.1 s on an idle host, half a minute was seen on a busy one. A start
#: can be cut short, and holds up no other VM.
START_TIMEOUT_S = 120.0
#: QEMU writes its disk caches on ``quit``; one that hangs is killed after this.
QUIT_TIMEOUT_S = 5.0
#: After SIGKILL; a process that the kernel holds, for a disk that hangs, may never end.
KILL_TIMEOUT_S = 10.0
#: A guest that boots does not hear the power button yet, so it is pressed again.
POWER_BUTTON_INTERVAL_S = 3.0

#: QEMU's words for its state (``RunState`` in its schema) in ours.
STATES = {
    "running": VmState.RUNNING,
    "paused": VmState.PAUSED,
    "suspended": VmState.PAUSED,
    "postmigrate": VmState.PAUSED,
    "debug": VmState.PAUSED,
    "prelaunch": VmState.STARTING,
    "inmigrate": VmState.RESTORING,
    "restore-vm": VmState.RESTORING,
    "finish-migrate": VmState.SAVING,
    "save-vm": VmState.SAVING,
    "shutdown": VmState.STOPPING,
    "guest-panicked": VmState.STUCK,
    "internal-error": VmState.STUCK,
    "io-error": VmState.STUCK,
    "watchdog": VmState.STUCK,
}


class _Status(msgspec.Struct):
    """What ``query-status`` answers."""

    status: str


class QemuMachine:
    """A QEMU process, from its start or adoption until ``close`` or its end."""

    def __init__(
        self,
        home: Path,
        process: ProcessIdentity,
        on_event: EventListener,
        on_end: Callable[[], None],
        credential: Path | None = None,
    ) -> None:
        """Begin to watch and to connect; relays that cannot read the ``credential`` are told what is in it of the
        broker. Raises ProcessLookupError if the process is already gone."""
        self.home = home
        self.watch = Watch(process, on_end)
        self.monitor = Monitor(home, self.watch, on_event)
        self._seed_port = HostSeedPort(home)
        #: QEMU's word for its state when it was last asked.
        self.last_run_state = ""
        #: How far the memory is that it writes; None while it writes none.
        self.percent_written: int | None = None
        self._tasks = OwnedTasks(f"QEMU of {home.name}")
        self._tasks.spawn(self.monitor.run(), name="monitor")
        self._tasks.spawn(self._seed_port.run(), name="seed port")
        self._tasks.spawn(keep_console(home), name="console")
        if credential is not None:
            self._tasks.spawn(keep_told(home, credential), name="where the broker is")

    async def close(self) -> None:
        """Let go of the process; it goes on. Idempotent."""
        await self._tasks.cancel()
        self.watch.close()

    async def run_state(self) -> str:
        """Ask for the state in QEMU's own word. Raises HypervisorError."""
        self.last_run_state = (await self.monitor.ask("query-status", _Status)).status
        return self.last_run_state

    async def state(self) -> VmState:
        """Ask for the state; ``unknown`` if QEMU does not answer or says what we do not know."""
        try:
            return STATES.get(await self.run_state(), VmState.UNKNOWN)
        except HypervisorError as error:
            log.warning("state_unknown vm=%s error=%s", self.home.name, error)
            return VmState.UNKNOWN

    async def press_power_button(self) -> None:
        """Ask the guest to shut down, again and again, until its process has ended; who calls sets the limit."""
        while not self.watch.has_ended:
            try:
                await self.monitor.execute("system_powerdown")
            except HypervisorError as error:
                log.debug("power_button_not_pressed vm=%s error=%s", self.home.name, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POWER_BUTTON_INTERVAL_S):
                    await self.watch.wait()

    async def quit(self) -> None:
        """End the process: by QMP, so that it writes its disk caches, or by SIGKILL if that takes too long."""
        try:
            async with asyncio.timeout(QUIT_TIMEOUT_S):
                await self.monitor.execute("quit")
                await self.watch.wait()
        except (HypervisorError, TimeoutError):
            # Ended meanwhile, or hanging: either way the signal is right.
            await self.kill()

    async def kill(self) -> None:
        """End the process at once. Raises HypervisorError if the kernel does not let it end."""
        self.watch.send(signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                await self.watch.wait()
        except TimeoutError as error:
            pid = self.watch.identity.pid
            raise HypervisorError(f"QEMU, pid {pid}, does not end: the kernel holds it, its disk may hang") from error

    def tell_later(self, command: str, arguments: dict[str, object]) -> None:
        """Have QEMU do something after what it is at. Nobody waits for it, nor hears whether it was done."""
        self._tasks.spawn(self._tell(command, arguments), name=command)

    async def _tell(self, command: str, arguments: dict[str, object]) -> None:
        try:
            await self.monitor.execute(command, arguments)
        except HypervisorError as error:
            log.debug("not_done vm=%s command=%s error=%s", self.home.name, command, error)

    def push_seed(self) -> None:
        """Send the newest seed to the guest; it goes out when its port is connected."""
        self._seed_port.push()
