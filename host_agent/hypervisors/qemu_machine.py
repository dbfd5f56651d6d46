"""One QEMU process that lives: its control connection, its seed port, and the news of its end.

The connection is made again whenever it breaks while the process lives. Verbs are ``qemu``'s; this knows how to talk,
and turns every way in which talking fails into HypervisorError.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate

from broker.daemon.process_identity import ProcessIdentity
from host_agent.errors import HypervisorError
from host_agent.hypervisors import qemu_command
from host_agent.hypervisors.detached import Watch
from host_agent.hypervisors.kept_log import KeptLog
from host_agent.vm import VmState

log = logging.getLogger(__name__)

#: From the start of the process until QMP answers; 0.1 s on an idle host, half a minute was seen on a busy one. A start
#: can be cut short, and holds up no other VM.
START_TIMEOUT_S = 120.0
#: An answer that takes longer means that QEMU hangs; 2 ms on an idle host.
ANSWER_TIMEOUT_S = 10.0
#: QEMU writes its disk caches on ``quit``; one that hangs is killed after this.
QUIT_TIMEOUT_S = 5.0
#: After SIGKILL; a process that the kernel holds, for a disk that hangs, may never end.
KILL_TIMEOUT_S = 10.0
#: A guest that boots does not hear the power button yet, so it is pressed again.
POWER_BUTTON_INTERVAL_S = 3.0
#: Between two tries to reach QEMU; the first come quickly since it is ready within 0.1 s.
_RETRY_S = (0.02, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
#: A guest that floods its seed port is answered no more often than this.
_SEED_PAUSE_S = 0.1
#: What a guest prints is taken in blocks of this size with this pause, so that one that prints for ever costs little.
_CONSOLE_BLOCK_BYTES, _CONSOLE_PAUSE_S = 64 * 1024, 0.02

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

#: Stands among QMP's events for a new connection: what happened before it was not heard.
CONNECTED = "CONNECTED"

#: Called with a QMP event's name and data.
EventListener = Callable[[str, dict[str, Any]], None]


class Machine:
    """A QEMU process, from its start or adoption until ``close`` or its end."""

    def __init__(
        self, home: Path, process: ProcessIdentity, on_event: EventListener, on_end: Callable[[], None]
    ) -> None:
        """Begin to watch and to connect. Raises ProcessLookupError if the process is already gone."""
        self.home = home
        self._on_event = on_event
        self._watch = Watch(process, on_end)
        self._qmp = QMPClient(home.name)
        self._is_connected = asyncio.Event()
        self._seed_writer: asyncio.StreamWriter | None = None
        #: QEMU's word for its state when it was last asked.
        self.last_run_state = ""
        #: How far the memory is that it writes; None while it writes none.
        self.percent_written: int | None = None
        self._tasks = [
            asyncio.ensure_future(work) for work in (self._keep_control(), self._keep_seed_port(), self._keep_console())
        ]

    @property
    def watch(self) -> Watch:
        """The watch over the process."""
        return self._watch

    async def close(self) -> None:
        """Let go of the process; it goes on. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watch.close()

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait until QEMU takes commands; raise HypervisorError if it ends or does not answer in time."""
        ended = asyncio.ensure_future(self._watch.wait())
        connected = asyncio.ensure_future(self._is_connected.wait())
        await asyncio.wait({ended, connected}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        connected.cancel()
        if not self._is_connected.is_set():
            raise HypervisorError(f"QEMU does not answer, or ended: {self.last_words()}")

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """Run a QMP command. Raises HypervisorError with QEMU's words, also if it does not answer."""
        await self.wait_connected(ANSWER_TIMEOUT_S)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._qmp.execute(command, arguments)
        except ExecuteError as error:
            raise HypervisorError(f"QEMU refuses {command}: {error}") from error
        except (QMPError, OSError, EOFError) as error:
            raise HypervisorError(f"QEMU was lost during {command}: {error}") from error
        except TimeoutError as error:
            raise HypervisorError(f"QEMU did not answer {command} within {ANSWER_TIMEOUT_S} s") from error

    async def run_state(self) -> str:
        """Ask for the state in QEMU's own word. Raises HypervisorError."""
        self.last_run_state = str((await self.execute("query-status"))["status"])
        return self.last_run_state

    async def state(self) -> VmState:
        """Ask for the state; ``unknown`` if QEMU does not answer or says what we do not know."""
        try:
            return STATES.get(await self.run_state(), VmState.UNKNOWN)
        except HypervisorError as error:
            log.warning("state_unknown vm=%s error=%s", self.home.name, error)
            return VmState.UNKNOWN

    async def pass_file(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file under a name that ``fd:`` addresses know."""
        await self.wait_connected(ANSWER_TIMEOUT_S)
        self._qmp.send_fd_scm(descriptor)
        await self.execute("getfd", {"fdname": name})

    async def press_power_button(self) -> None:
        """Ask the guest to shut down, again and again, until its process has ended; who calls sets the limit."""
        while not self._watch.has_ended:
            try:
                await self.execute("system_powerdown")
            except HypervisorError as error:
                log.debug("power_button_not_pressed vm=%s error=%s", self.home.name, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POWER_BUTTON_INTERVAL_S):
                    await self._watch.wait()

    async def quit(self) -> None:
        """End the process: by QMP, so that it writes its disk caches, or by SIGKILL if that takes too long."""
        try:
            async with asyncio.timeout(QUIT_TIMEOUT_S):
                await self.execute("quit")
                await self._watch.wait()
        except (HypervisorError, TimeoutError):
            # Ended meanwhile, or hanging: either way the signal is right.
            await self.kill()

    async def kill(self) -> None:
        """End the process at once. Raises HypervisorError if the kernel does not let it end."""
        self._watch.send(signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                await self._watch.wait()
        except TimeoutError as error:
            pid = self._watch.identity.pid
            raise HypervisorError(f"QEMU, pid {pid}, does not end: the kernel holds it, its disk may hang") from error

    def push_seed(self) -> None:
        """Send the newest seed to the guest, if the port is connected; otherwise it goes out when it is."""
        if self._seed_writer is not None:
            self._seed_writer.write(self._seed_line())

    def last_words(self) -> str:
        """Give the end of what QEMU printed."""
        try:
            return (self.home / "qemu.log").read_text(errors="replace")[-500:].strip() or "it printed nothing"
        except OSError as error:
            return f"its log cannot be read: {error}"

    def _seed_line(self) -> bytes:
        return (self.home / qemu_command.SEED_FILE).read_bytes().strip() + b"\n"

    async def _keep_control(self) -> None:
        tries = 0
        while True:
            try:
                await self._connect()
                tries = 0
                self._on_event(CONNECTED, {})
                await self._pump_events()
            except (QMPError, OSError, EOFError) as error:
                log.debug("qmp_not_connected vm=%s error=%s", self.home.name, error)
            finally:
                self._is_connected.clear()
                await self._disconnect()
            await asyncio.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
            tries += 1

    async def _connect(self) -> None:
        self._qmp = QMPClient(self.home.name)
        # Its own log repeats every broken connection as an error; ours says what follows from it.
        self._qmp.logger.setLevel(logging.CRITICAL)
        with _short_path(self.home, qemu_command.QMP_SOCKET) as path:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._qmp.connect(path)
        self._is_connected.set()

    async def _disconnect(self) -> None:
        # What broke the connection is raised here again; it is known by now.
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._qmp.disconnect()

    async def _pump_events(self) -> None:
        while self._qmp.runstate is Runstate.RUNNING:
            changed = asyncio.ensure_future(self._qmp.runstate_changed())
            event = asyncio.ensure_future(self._qmp.events.get())
            try:
                await asyncio.wait({changed, event}, return_when=asyncio.FIRST_COMPLETED)
                if event.done():
                    message = event.result()
                    self._on_event(str(message["event"]), cast(dict[str, Any], message.get("data", {})))
            finally:
                changed.cancel()
                event.cancel()

    async def _keep_seed_port(self) -> None:
        while True:
            try:
                with _short_path(self.home, qemu_command.SEED_SOCKET) as path:
                    reader, writer = await asyncio.open_unix_connection(path)
                try:
                    self._seed_writer = writer
                    await self._serve_seeds(reader, writer)
                finally:
                    self._seed_writer = None
                    writer.close()
            except OSError as error:
                log.debug("seed_port_not_connected vm=%s error=%s", self.home.name, error)
            await asyncio.sleep(_SEED_PAUSE_S)

    async def _keep_console(self) -> None:
        """Keep what the guest prints on its serial console, within the log's bounds."""
        console = KeptLog(self.home / qemu_command.CONSOLE)
        while True:
            try:
                with _short_path(self.home, qemu_command.CONSOLE_SOCKET) as path:
                    reader, writer = await asyncio.open_unix_connection(path)
                with contextlib.closing(writer):
                    while printed := await reader.read(_CONSOLE_BLOCK_BYTES):
                        await self._keep_printed(console, printed)
            except OSError as error:
                log.debug("console_not_connected vm=%s error=%s", self.home.name, error)
            await asyncio.sleep(_CONSOLE_PAUSE_S)

    async def _keep_printed(self, console: KeptLog, printed: bytes) -> None:
        try:
            await asyncio.to_thread(console.write, printed)
        except OSError as error:
            # The guest goes on: what it prints is no reason to hold it up.
            log.debug("console_not_kept vm=%s error=%s", self.home.name, error)
        await asyncio.sleep(_CONSOLE_PAUSE_S)

    async def _serve_seeds(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the newest seed at once, then whenever the guest writes anything: there is nothing else to ask for."""
        writer.write(self._seed_line())
        while await reader.read(qemu_command.SEED_FILE_BYTES):
            writer.write(self._seed_line())
            await writer.drain()
            await asyncio.sleep(_SEED_PAUSE_S)


@contextlib.contextmanager
def _short_path(directory: Path, name: str) -> Iterator[str]:
    """Name a socket by a path under the kernel's limit, however deep its directory lies."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
