"""How far a run of tasks is, and who is told: the client each second, the checkpoint's file, trickles, a picture.

Nothing here goes backwards, over restarts either: CPU time begins with what the client, or the checkpoint, knows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from host_agent.boinc.app_status import AppStatus
from host_agent.boinc.checkpoint import Checkpoint, read_checkpoint
from host_agent.boinc.client_link import ClientLink
from host_agent.boinc.graphics import Graphics
from host_agent.boinc.init_data import InitData
from host_agent.boinc.plan import RunPlan

log = logging.getLogger(__name__)

#: Between two looks at the CPU time, seconds: all processes are looked through for it.
CPU_S = 2.0


class SlowMeter:
    """One that is read now and then only: reading it costs more than it changes."""

    def __init__(self, measure: Callable[[], float], every_s: float) -> None:
        self._measure, self._every_s = measure, every_s
        self._last, self._read_s = 0.0, -every_s

    def __call__(self) -> float:
        """Give what was read last, seconds."""
        if time.monotonic() - self._read_s >= self._every_s:
            self._last, self._read_s = self._measure(), time.monotonic()
        return self._last


class CpuMeters:
    """What the CPU time of a task is added up of."""

    def __init__(self, meters: list[Callable[[], float]]) -> None:
        self.meters = meters

    def total_s(self) -> float:
        """Measure it, seconds."""
        return sum(measure() for measure in self.meters)


class Progress:
    """See the module. ``cpu_s`` measures the CPU time of this process's programs since it began."""

    def __init__(
        self, slot: Path, plan: RunPlan, data: InitData, link: ClientLink, cpu_s: Callable[[], float], trickle_s: float
    ) -> None:
        self._slot, self._plan, self._link, self._cpu_s = slot, plan, link, cpu_s
        self._trickle_s, self._trickled_s = trickle_s, 0.0
        self._graphics = Graphics(slot) if plan.has_graphics else None
        self._before = Checkpoint(0, data.wu_cpu_s, data.starting_elapsed_s)
        self._cpu_looked_s = time.monotonic()
        self._trouble = ""
        #: Time in which tasks ran, over all episodes, seconds.
        self.runtime_s = 0.0
        #: Tasks that have ended well.
        self.done = 0
        self.status = AppStatus(begin=data.fraction_done_start, end=data.fraction_done_end)

    def take_up(self) -> None:
        """Begin where the run before has come to. Raises OSError."""
        kept = read_checkpoint(self._slot)
        if kept is not None:
            self._before = Checkpoint(kept.tasks_done, max(kept.cpu_s, self._before.cpu_s), kept.runtime_s)
            self.done = min(kept.tasks_done, len(self._plan.tasks))
            log.info("goes on: %d of %d tasks are done", self.done, len(self._plan.tasks))
        self.runtime_s = self._trickled_s = self._before.runtime_s
        self.status.cpu_s = self.status.checkpoint_cpu_s = self._before.cpu_s
        self.look()

    def look(self, fraction_of_task: float = 0.0, *, is_due: bool = False) -> None:
        """Take how far the task is that runs, and tell it; ``is_due``: with the CPU time measured now."""
        if is_due or time.monotonic() - self._cpu_looked_s >= CPU_S:
            self._cpu_looked_s = time.monotonic()
            self.status.reach(self._before.cpu_s + self._cpu_s())
        done = sum(task.weight for task in self._plan.tasks[: self.done])
        at_work = self._plan.tasks[self.done].weight if self.done < len(self._plan.tasks) else 0.0
        self.status.progress((done + at_work * fraction_of_task) / self._plan.weight)
        self._link.say(self.status)
        if self._trickle_s and self.runtime_s - self._trickled_s >= self._trickle_s:
            self._trickled_s = self.runtime_s
            self._link.outgoing.trickle("cpu_time", f"<cpu_time>{self.runtime_s:f}</cpu_time>\n")
        if self._graphics is not None:
            self._graphics.write(self.status, self.runtime_s, self._link.will)

    def task_done(self) -> None:
        """One more task has ended well."""
        self.done += 1
        self.checkpoint()

    def checkpoint(self) -> None:
        """What is done would survive. On a disk that is full the one before stands, and a person is told."""
        self.look(is_due=True)
        try:
            Checkpoint(self.done, self.status.cpu_s, self.runtime_s).write(self._slot)
        except OSError as error:
            if str(error) != self._trouble:
                log.error("no checkpoint could be written, the one before stands: %s", error)
            self._trouble = str(error)
            return
        self.status.checkpoint()
        self._link.say(self.status)
