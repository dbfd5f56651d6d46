"""A program that becomes a VM's account and kills all that runs as that, by one call that nobody forks away from.

Started by root without site packages: it needs the standard library only. What it is told is the account's id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """End with a complaint, having killed nobody, if we are still more than the account."""
    uid = int(sys.argv[1])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    try:
        # The host agent: who may signal that would kill the whole machine.
        os.kill(os.getppid(), 0)
    except PermissionError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    else:
        sys.exit(f"user {uid} may signal the host agent")


if __name__ == "__main__":
    main()
