"""A directory of one run's own for files on their way. What a run that was killed has left goes when another begins."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "run-"


class Workplace:
    """A directory that is there from the beginning until ``close``, or until the next run after this process' end.

    Its lock dies with the process, so any number of adapters may have theirs below one parent. Raises OSError.
    """

    def __init__(self, parent: Path) -> None:
        """Makes the parent where it is missing, and removes what nobody holds there."""
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{_PREFIX}*"):
            _remove_unheld(left)
        self.path, self._lock = _new(parent)

    def close(self) -> None:
        """Remove it. Idempotent."""
        if self._lock < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def _new(parent: Path) -> tuple[Path, int]:
    """Make a directory and lock it; one that another run has removed in between is made anew."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_dir():
                return path, lock
            os.close(lock)


def _remove_unheld(path: Path) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # no directory, or gone
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        return  # its run is there
    finally:
        os.close(lock)
