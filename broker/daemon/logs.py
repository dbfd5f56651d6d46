"""Logs as events: one line each, a constant message and key=value fields, to standard error.

Times are UTC, with a Z; secrets are masked. A log that is a file is put aside when it is full, by the process that
writes it and while it writes: whatever else that process or its children say on standard error goes along.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import sys
import time
from pathlib import Path
from textwrap import indent
from typing import Any

from broker.daemon.log_bounds import PrincipalBounds
from broker.masking import mask
from schemas.plain_text import plain, plain_lines

#: Whose lines are written from the level on that is asked for. Of libraries' lines warnings alone are: others tell what
#: they send and are sent, also what is no log's to have.
OURS = ("__main__", "adapters", "broker", "guest_agent", "host_agent", "schemas", "volcloud")
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
#: A log of this length is put aside before the next line, bytes; of those before it so many are kept. 40 MiB a process.
LOG_BYTES, LOGS_KEPT = 8 << 20, 4


class EventFormatter(logging.Formatter):
    """``time level process message key=value …``; fields are what a call gave as ``extra``."""

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03dZ %(levelname)s {process} %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        """Render the line, its fields last."""
        fields = [f"{k}={v!r}" for k, v in record.__dict__.items() if k not in _OWN]
        return plain(" ".join([super().formatMessage(record), *fields]))

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's own name
        """Render a traceback with an indent: what a stranger said in an error begins no line of its own."""
        return indent(plain_lines(super().formatException(ei)), "  ")

    def format(self, record: logging.LogRecord) -> str:
        """Render the line, and a traceback below it, without any secret."""
        return mask(super().format(record))


class _LogFile(logging.FileHandler):
    """A log that is put aside once it is full, whoever filled it. Logging's own of this kind renders each line twice,
    and loads pickle: 0.3 MB of a daemon's memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._path = Path(self.baseFilename)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, in a new file if this one is full."""
        try:
            if self._is_full():
                self.put_aside()
        except OSError:
            self.handleError(record)
        super().emit(record)

    def put_aside(self) -> None:
        """Begin a new file; the full ones before it move on by one, and the oldest goes."""
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):  # what a full disk has not taken yet is left out
                stream.close()
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, LOGS_KEPT + 1))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)
        self.stream = self._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        """Leave out what a full disk does not take: logging's own would put a traceback on a person's terminal."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def _is_full(self) -> bool:
        if self.stream is None:
            return False
        found = os.fstat(self.stream.fileno())
        return stat.S_ISREG(found.st_mode) and found.st_size >= LOG_BYTES


class _StandardError(_LogFile):
    """Standard error where it is a file: put aside when full, the descriptor with it."""

    def put_aside(self) -> None:
        super().put_aside()
        if self.stream is not None:
            os.dup2(self.stream.fileno(), sys.stderr.fileno())


def log_to_stderr(process: str, *, level: int = logging.INFO) -> None:
    """Send this process's log to standard error, where its supervisor keeps it."""
    path = _appended_file()
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = _StandardError(path)
    _use(handler, process, level)


def log_to_file(process: str, path: Path, *, level: int = logging.INFO) -> None:
    """Send this process's log to a file, which is put aside when full; standard error is a person's."""
    _use(_LogFile(path), process, level)


def _use(handler: logging.Handler, process: str, level: int) -> None:
    handler.setFormatter(EventFormatter(process))
    handler.addFilter(PrincipalBounds())
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)


def _appended_file() -> Path | None:
    """Name the file that standard error is appended to; None where it is none, or has no name any more."""
    try:
        descriptor = sys.stderr.fileno()
        found, path = os.fstat(descriptor), Path(f"/proc/self/fd/{descriptor}").readlink()
        is_appended = stat.S_ISREG(found.st_mode) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
        return path if is_appended and os.path.samestat(found, path.stat()) else None
    except (OSError, ValueError):
        return None
