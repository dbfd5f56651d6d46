"""One process held up: started, its record kept, started again with backoff when it dies, ended when asked.

The process begins only after its record is on disk, so that a supervisor killed between the two leaves nothing that
nobody knows. A disk that is full is waited out like anything else that keeps the process down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from broker.backoff import backoff
from broker.errors import BrokerError
from volcloud.centre.layout import Layout
from volcloud.centre.log_words import LogMark
from volcloud.centre.process_state import write_state
from volcloud.errors import CentreFailed

#: Waits for a line before it becomes the command; ends when its input does, which is when the supervisor is gone.
_GATE = 'read -r _ && exec "$@" </dev/null'
#: A process that lived this long starts its backoff anew, seconds.
SETTLED_S = 60.0
#: Deaths in a row, before the system was ready, after which ``up`` gives up.
MOST_DEATHS = 3
#: How long a process may take to end by itself, seconds.
STOP_S = 20.0
#: Waits before it is started again, seconds: the first, and what they grow to.
_WAITS_S = (0.2, 10.0)


class Child:
    """See the module. Belongs to the supervisor's loop."""

    def __init__(self, layout: Layout, name: str, command: Sequence[str], say: Callable[[str], None]) -> None:
        self.name = name
        self._layout = layout
        self._command = list(command)
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._deaths = 0
        self._mark = LogMark.of(self.log)
        self._is_asked = False
        self.restarts = 0
        #: Called before each start of it. What it raises of OSError and BrokerError is an end like any other.
        self.prepare: Callable[[], None] = lambda: None
        #: Set once the whole system was ready: from then on it is started again for ever.
        self.is_settled = False

    @property
    def log(self) -> Path:
        """Where it writes what it has to say."""
        return self._layout.log(self.name)

    async def keep_up(self) -> None:
        """Run it until cancelled. Raises CentreFailed when it will not come up."""
        waits, last_end = backoff(*_WAITS_S), ""
        while True:
            began = time.monotonic()
            last_end = await self._live(last_end)
            if time.monotonic() - began > SETTLED_S:
                waits, self._deaths = backoff(*_WAITS_S), 0
            if self._is_asked:
                self._is_asked = False
            else:
                self._count_death(last_end)
                await asyncio.sleep(next(waits))
            self.restarts += 1

    async def restart(self) -> None:
        """End it; ``keep_up`` starts it again, with what its configuration says now. Returns when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._is_asked = True
            await _end(self._process)

    async def stop(self) -> None:
        """End it and wait until it is gone; kill its process group when it takes too long. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        await _end(process)
        self._layout.record(self.name).unlink(missing_ok=True)

    async def _live(self, last_end: str) -> str:
        """Live one life of the process and say how it ended. A full disk is an end like any other."""
        try:
            self.prepare()
            await self._start(last_end)
            return await self._ended()
        except (OSError, BrokerError) as error:
            return str(error)

    def _count_death(self, last_end: str) -> None:
        self._deaths += 1
        if not self.is_settled and self._deaths >= MOST_DEATHS:
            raise CentreFailed(
                f"{self.name} does not come up, it ended {self._deaths} times with {last_end}:\n{self._mark.words()}",
                f"see {self.log}",
            )
        self._say(f"{self.name} ended with {last_end}; starting it again")

    async def _start(self, last_end: str) -> None:
        with self.log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", _GATE, "sh", *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._process = process
        try:
            write_state(
                self._layout.record(self.name), self.name, process.pid, restarts=self.restarts, last_end=last_end
            )
        except OSError:
            await _end(process)  # it has not begun
            raise
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(b"\n")
                await process.stdin.drain()
            process.stdin.close()

    async def _ended(self) -> str:
        status = await self._process.wait() if self._process is not None else 0
        return f"signal {-status}" if status < 0 else f"exit status {status}"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Terminate a process and wait for it; kill its group when it takes too long. Idempotent."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def daemon_command(module: str, config: Path) -> list[str]:
    """Give the command of one of our daemons."""
    return [sys.executable, "-m", module, "--config", str(config)]
