"""``volcloud``: starts the command line. Light on purpose: until the rest is loaded, Ctrl-C ends it without a word."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run ``volcloud``."""
    heeded = signal.getsignal(signal.SIGINT)
    if heeded is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Here, since loading takes the better part of a second.
    from console import crash
    from console.command_line import cli
    from console.screen import spare_nothing

    signal.signal(signal.SIGINT, heeded)
    crash.catch_what_nobody_awaits()
    for stream in (sys.stdout, sys.stderr):
        spare_nothing(stream)
    cli.main(prog_name="volcloud")


if __name__ == "__main__":
    main()
