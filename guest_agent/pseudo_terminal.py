"""A pseudo terminal for one command: the agent has the master side, the command the other as its controlling one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios

from guest_agent.errors import CannotRun
from guest_agent.pipes import Sink


class PseudoTerminal:
    """See the module. ``hand_over`` once its other side is with the command."""

    def __init__(self, rows: int, columns: int, owner: int) -> None:
        """Have one of that size, which is the user ``owner``'s. Raises CannotRun."""
        try:
            self.master, self.slave = os.openpty()
            self.path = os.ttyname(self.slave)
            if os.geteuid() == 0:
                os.fchown(self.slave, owner, -1)
        except OSError as error:
            text = f"terminal: this VM has none to give: {error.strerror}"
            raise CannotRun(text, hint="run it without one: `volcloud vm run`") from error
        self._control = os.dup(self.master)
        self.resize(rows, columns)

    def readers(self, stdout: Sink, stderr: Sink) -> dict[int, Sink]:
        """See ``Outlets``: whatever the command says is standard output."""
        return {self.master: stdout}

    def resize(self, rows: int, columns: int) -> None:
        """Give it another size; the kernel tells the job in its foreground. Nothing happens when it is closed."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._control, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hand_over(self) -> None:
        """Close our copy of the command's side."""
        os.close(self.slave)

    def drop(self) -> None:
        """Close the master side too: nothing was started."""
        os.close(self.master)
        self.close()

    def close(self) -> None:
        """Resize it no more. Idempotent."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
