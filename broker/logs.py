"""Logs as events: one line each, a constant message and key=value fields, to standard error."""

from __future__ import annotations

import logging
import sys
from textwrap import indent
from typing import Any

from schemas.plain_text import plain, plain_lines

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class EventFormatter(logging.Formatter):
    """``time level process message key=value …``; fields are what a call gave as ``extra``."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process} %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        """Render the line, its fields last."""
        fields = [f"{k}={v!r}" for k, v in record.__dict__.items() if k not in _OWN]
        return plain(" ".join([super().formatMessage(record), *fields]))

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's own name
        """Render a traceback with an indent: what a stranger said in an error begins no line of its own."""
        return indent(plain_lines(super().formatException(ei)), "  ")


def log_to_stderr(process: str, *, level: int = logging.INFO) -> None:
    """Send this process's log to standard error, where its supervisor keeps it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
