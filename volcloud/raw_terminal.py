"""A person's terminal handed to a VM: every key goes there, and whatever happens, it is as it was afterwards.

Python runs a signal's handler in the main thread alone, which waits for the session meanwhile: so SIGTERM and SIGHUP
end that by an exception, and the terminal is restored on the way out. After SIGKILL nobody is left to: `stty sane`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from volcloud.errors import Terminated

#: Signals that end a session, as they would end any program.
_ENDING = (signal.SIGTERM, signal.SIGHUP)
#: What takes back what a program in the VM may have left: colours, a hidden cursor, the other screen, mouse and paste.
_SANE = "\x1b[0m\x1b[?25h\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l"


@contextlib.contextmanager
def raw(descriptor: int, on_resize: Callable[[], None]) -> Iterator[None]:
    """Have the terminal pass every key on for as long as the block lasts. Raises Terminated in it on SIGTERM, SIGHUP.

    ``on_resize`` is called when its size has changed."""
    before = termios.tcgetattr(descriptor)
    with _signals(on_resize):
        try:
            tty.setraw(descriptor, termios.TCSANOW)
            yield
        finally:
            with contextlib.suppress(termios.error, OSError):
                _restore(descriptor, before)


def size_of(descriptor: int) -> tuple[int, int]:
    """Give rows and columns of a terminal; 24 and 80 where it does not know."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return 24, 80
    return rows or 24, columns or 80


def _restore(descriptor: int, before: list[Any]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            os.write(descriptor, _SANE.encode())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


@contextlib.contextmanager
def _signals(on_resize: Callable[[], None]) -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    handlers = dict.fromkeys(_ENDING, end) | {signal.SIGWINCH: lambda number, frame: on_resize()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
