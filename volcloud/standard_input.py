"""Whether somebody gave us a standard input that we do not pass on: that is said, and not swallowed."""

from __future__ import annotations

import array
import fcntl
import os
import stat
import termios


def has_unread(descriptor: int = 0) -> bool:
    """Say whether a pipe, a socket or a file holds what nobody has read. A terminal and /dev/null never do."""
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return os.lseek(descriptor, 0, os.SEEK_CUR) < status.st_size
        if not (stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
            return False
        waiting = array.array("i", [0])
        fcntl.ioctl(descriptor, termios.FIONREAD, waiting)
    except OSError:  # closed, or of a kind that cannot be asked: nothing was given
        return False
    return waiting[0] > 0
