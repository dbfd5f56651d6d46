"""A person at a terminal: types, looks at what it shows, makes it larger, and finds it as it was afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.system.running import until


class Person:
    """See the module. What the program shows is read whenever it is looked at."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], rows: int, columns: int) -> None:
        self._master, self._slave = os.openpty()
        os.set_blocking(self._master, False)
        self.resize(rows, columns)
        self.modes = termios.tcgetattr(self._slave)
        self._said = bytearray()
        # util-linux's own makes the terminal the program's controlling one.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            env={**environment, "TERM": "xterm"},
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
        )

    @property
    def said(self) -> str:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self._said += data
        return self._said.decode(errors="replace")

    @property
    def has_modes_back(self) -> bool:
        """The line discipline is as it was before the program ran."""
        return termios.tcgetattr(self._slave) == self.modes

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def sees(self, text: str, patience_s: float = 60) -> None:
        """Wait until a text is shown."""
        until(lambda: text in self.said, f"{text!r} is shown: {self.said[-500:]!r}", patience_s)

    def ends(self, patience_s: float = 60) -> int:
        """Wait for the program's end; give its exit status."""
        until(lambda: self.said is not None and self.process.poll() is not None, f"it ends: {self.said}", patience_s)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        os.close(self._master)
        os.close(self._slave)


@contextmanager
def person(
    command: Sequence[str], environment: Mapping[str, str], rows: int = 24, columns: int = 80
) -> Iterator[Person]:
    """Have a person at a terminal of that size."""
    somebody = Person(command, environment, rows, columns)
    try:
        yield somebody
    finally:
        somebody.close()
