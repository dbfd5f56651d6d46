"""Files that one process at a time has: by a lock that dies with it, so that what nobody holds can be told."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from broker import durable
from broker.errors import PartialTaken
from schemas.errors import ErrorCode


def open_locked(path: Path) -> int:
    """Open a file, new or not, and lock it for as long as it is open. Raises PartialTaken, OSError.

    Who held it last may have renamed or removed it between our opening and our lock: then it is opened anew.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, durable.PRIVATE)
        try:
            lock(file)
            if _is_at(path, file):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def lock(file: int) -> None:
    """Lock an open file until it is closed, by us or by our end. Raises PartialTaken while another holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PartialTaken(ErrorCode.CONFLICT, "another receiver is at work on this file") from error


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
