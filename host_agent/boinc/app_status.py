"""What the application says of itself: whole in each message, since the client forgets what one leaves out. Pure.

A message without a CPU time sets it to 0, and a change of ``checkpoint_cpu_time`` is the only sign of a checkpoint.
Source: ``client/app_control.cpp``, ``api/boinc_api.cpp``.
"""

from __future__ import annotations

from msgspec import Struct

#: What the client must see change, seconds: it prints times with six digits.
LEAST_STEP_S = 1e-3


class AppStatus(Struct):
    """See the module. CPU times are totals over all episodes of the task, seconds."""

    cpu_s: float = 0.0
    checkpoint_cpu_s: float = 0.0
    #: From 0 to 1, of this application's part.
    fraction_done: float = 0.0
    #: Where the fraction is to lie in the end: an application may be a part of a task.
    begin: float = 0.0
    end: float = 1.0
    wants_network: bool = False
    #: A process that is no descendant of ours and belongs to the task; 0: none. The client kills it when we have ended.
    other_pid: int = 0
    #: What a sporadic application answers; None: it is none.
    sporadic: int | None = None

    def reach(self, cpu_s: float) -> None:
        """Take a measured CPU time; it never goes backwards, whatever was measured."""
        self.cpu_s = max(self.cpu_s, cpu_s)

    def progress(self, fraction: float) -> None:
        """Take how much is done; a fraction that is none, or is less than before, changes nothing."""
        if fraction == fraction:
            self.fraction_done = max(self.fraction_done, min(fraction, 1.0))

    def checkpoint(self) -> None:
        """The work up to now would survive. It is seen, also where no CPU time could be measured since the last one."""
        self.checkpoint_cpu_s = max(self.cpu_s, self.checkpoint_cpu_s + LEAST_STEP_S)
        self.cpu_s = max(self.cpu_s, self.checkpoint_cpu_s)

    def render(self) -> str:
        """Give the message."""
        fraction = self.begin + (self.end - self.begin) * self.fraction_done
        lines = [
            f"<current_cpu_time>{self.cpu_s:e}</current_cpu_time>",
            f"<checkpoint_cpu_time>{self.checkpoint_cpu_s:.15e}</checkpoint_cpu_time>",
            f"<fraction_done>{fraction:e}</fraction_done>",
        ]
        if self.wants_network:
            lines.append("<want_network>1</want_network>")
        if self.other_pid:
            lines.append(f"<other_pid>{self.other_pid}</other_pid>")
        if self.sporadic is not None:
            lines.append(f"<sporadic_ac>{self.sporadic}</sporadic_ac>")
        return "".join(f"{line}\n" for line in lines)
