"""One process held up: started, its record kept, started again with backoff when it dies, ended when asked.

The process begins only after its record is on disk, so that a supervisor killed between the two leaves nothing that
nobody knows.
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
from console.centre.layout import Layout, tail
from console.centre.process_state import write_state
from console.errors import CentreFailed

#: Waits for a line before it becomes the command; ends when its input does, which is when the supervisor is gone.
_GATE = 'read -r _ && exec "$@" </dev/null'
#: A process that lived this long starts its backoff anew, seconds.
SETTLED_S = 60.0
#: Deaths in a row, before the system was ready, after which ``up`` gives up.
MOST_DEATHS = 3
#: How long a process may take to end by itself, seconds.
STOP_S = 20.0
#: A log longer than this is put aside at the next start, bytes.
_LOG_BYTES = 32 << 20


class Child:
    """See the module. Belongs to the supervisor's loop."""

    def __init__(self, layout: Layout, name: str, command: Sequence[str], say: Callable[[str], None]) -> None:
        self.name = name
        self._layout = layout
        self._command = list(command)
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._deaths = 0
        self.restarts = 0
        #: Set once the whole system was ready: from then on it is started again for ever.
        self.is_settled = False

    @property
    def log(self) -> Path:
        """Where it writes what it has to say."""
        return self._layout.log(self.name)

    async def keep_up(self) -> None:
        """Run it until cancelled. Raises CentreFailed when it will not come up."""
        waits, last_end = backoff(0.2, 10.0), ""
        while True:
            began = time.monotonic()
            await self._start(last_end)
            last_end = await self._ended()
            if time.monotonic() - began > SETTLED_S:
                waits, self._deaths = backoff(0.2, 10.0), 0
            self._deaths += 1
            if not self.is_settled and self._deaths >= MOST_DEATHS:
                raise CentreFailed(
                    f"{self.name} does not come up, it ended {self._deaths} times with {last_end}:\n{tail(self.log)}",
                    f"see {self.log}",
                )
            self._say(f"{self.name} ended with {last_end}; starting it again")
            await asyncio.sleep(next(waits))
            self.restarts += 1

    async def stop(self) -> None:
        """End it and wait until it is gone; kill its process group when it takes too long. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        self._layout.record(self.name).unlink(missing_ok=True)

    async def _start(self, last_end: str) -> None:
        _put_aside(self.log)
        with self.log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", _GATE, "sh", *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._process = process
        write_state(self._layout.record(self.name), self.name, process.pid, restarts=self.restarts, last_end=last_end)
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(b"\n")
                await process.stdin.drain()
            process.stdin.close()

    async def _ended(self) -> str:
        status = await self._process.wait() if self._process is not None else 0
        return f"signal {-status}" if status < 0 else f"exit status {status}"


def daemon_command(module: str, config: Path) -> list[str]:
    """Give the command of one of our daemons."""
    return [sys.executable, "-m", module, "--config", str(config)]


def _put_aside(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
