"""``volcloud``: starts the command line. Light on purpose: until the rest is loaded, Ctrl-C ends it without a word."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import NoReturn

#: How long threads may hold up the end of a command, seconds.
LEAVE_S = 2.0


def main() -> None:
    """Run ``volcloud``."""
    heeded = signal.getsignal(signal.SIGINT)
    if heeded is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Here, since loading takes the better part of a second.
    from volcloud import crash
    from volcloud.command_line import cli
    from volcloud.screen import spare_nothing

    signal.signal(signal.SIGINT, heeded)
    crash.catch_what_nobody_awaits()
    for stream in (sys.stdout, sys.stderr):
        spare_nothing(stream)
    try:
        cli.main(prog_name="volcloud")
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else 1)


def leave(status: int) -> NoReturn:
    """End the process, also where a thread does not end: one that writes into a pipe that is full, or waits for a disk
    that hangs. Python itself would wait for it for ever."""
    deadline = time.monotonic() + LEAVE_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
