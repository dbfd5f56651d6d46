"""What nobody foresaw: the traceback goes into a file of its own, and a person is told where.

The files are the user's alone, in his state directory, and the oldest go once there are many.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

#: Files that are kept; who reports a fault needs the last.
MOST_KEPT = 20


def keep(text: str) -> Path | None:
    """Write the account of a crash into a new file of mode 0600 and give its path; None where no directory takes it."""
    now_s, fraction_ns = divmod(time.time_ns(), 10**9)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_s))
    # The fraction before the pid: the oldest are found by their names.
    name = f"crash-{stamp}.{fraction_ns:09}Z-{os.getpid()}.txt"
    for directory in (_state_directory(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
                file.write(text)
            _forget_old(directory)
            return directory / name
    return None


def describe(error: BaseException) -> str:
    """Give what there is to know of an error, its causes included."""
    return "".join(traceback.format_exception(error))


class CrashLog(logging.Handler):
    """Keeps what the floors below log as an error with a traceback: a console has no log that it could go to."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        keep(self.format(record))


def catch_what_nobody_awaits() -> None:
    """Send the errors of threads, destructors and the floors' logs to files; without this they land on the terminal."""
    logging.basicConfig(handlers=[CrashLog(logging.ERROR)], force=True)
    threading.excepthook = lambda given: _keep_error(given.exc_value)
    sys.unraisablehook = lambda given: _keep_error(given.exc_value)


def _keep_error(error: BaseException | None) -> None:
    if error is not None:
        keep(describe(error))


def _state_directory() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "volcloud"


def _forget_old(directory: Path) -> None:
    for old in sorted(directory.glob("crash-*.txt"))[:-MOST_KEPT]:
        old.unlink(missing_ok=True)
