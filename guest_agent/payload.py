"""One payload run to its end, whatever holds it together: a job's, its validation, a console's command.

Output goes to two sinks through pipes, so that it can be capped or held back. What it has started ends with its leader
or at its wall time, with a grace. Nothing here knows of jobs.
"""

from __future__ import annotations

import asyncio
import signal
import time

from msgspec import Struct

from guest_agent.cgroup import Figures
from guest_agent.pipes import Outlets, PipeReader, Sink
from guest_agent.process_group import Leader

#: Nobody listens to a job before this, seconds: what a shorter one prints is read once, at its end.
LISTEN_AFTER_S = 0.02
#: Between the polite signal and the last one, seconds, where nobody has chosen.
GRACE_S = 10.0


class PayloadEnd(Struct, frozen=True, kw_only=True):
    """How a payload ended. ``exit_status`` is the shell's, 128 + n for a death by signal n; ``signal`` is n then."""

    exit_status: int
    signal: int = 0
    wall_seconds: float
    timed_out: bool
    figures: Figures


class Payload:
    """A payload that runs, of a leader that a container or a minder has started."""

    def __init__(
        self, leader: Leader, pipes: Outlets, stdout: Sink, stderr: Sink, *, listen_after_s: float = 0.0
    ) -> None:
        """Take the pipes over. ``listen_after_s``: see ``PipeReader``."""
        self._loop = asyncio.get_running_loop()
        self._leader = leader
        self._began = time.monotonic()
        self._output = PipeReader(pipes, stdout, stderr, listen_after_s=listen_after_s)
        self._last: asyncio.TimerHandle | None = None

    def go_on(self) -> None:
        """Read again from streams whose sinks asked to be left alone."""
        self._output.go_on()

    def signal(self, number: int) -> None:
        """Send a signal to the group; nothing happens when it is gone."""
        self._leader.signal(number)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Ask it to end, and after the grace end it and all that it has started. Idempotent."""
        if self._last is None:
            self.signal(signal.SIGTERM)
            self._last = self._loop.call_later(grace_s, self.signal, signal.SIGKILL)

    async def wait(self, wall_time_s: float | None = None, grace_s: float = GRACE_S) -> PayloadEnd:
        """Wait for the end; at the wall time it is stopped. Post-condition: nothing that it started is left.

        Raises what its leader's end raises.
        """
        timed_out = False
        try:
            await asyncio.wait((self._leader.ended,), timeout=wall_time_s)
            if timed_out := not self._leader.ended.done():
                self.stop(grace_s)
                await asyncio.wait((self._leader.ended,))
        finally:
            self.signal(signal.SIGKILL)
            if self._last is not None:
                self._last.cancel()
        try:
            end = await self._leader.ended
        finally:
            await self._output.drain()
        return PayloadEnd(
            exit_status=end.code if end.code >= 0 else 128 - end.code,
            signal=max(-end.code, 0),
            wall_seconds=end.wall_seconds or time.monotonic() - self._began,
            timed_out=timed_out,
            figures=end.figures,
        )
