"""The top of a daemon's main: whatever ends it is one line of its log and an exit status.

0: it was told to stop; 1: it cannot go on; 2: a setting is wrong. What nobody foresaw, and that alone, has its
traceback in the log.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from broker.errors import BrokerError, ConfigError
from schemas.plain_text import plain

log = logging.getLogger(__name__)

#: What every daemon meets: the broker, the machine with its disks, a value that makes no sense.
_COMMON = (BrokerError, OSError, ValueError)
#: Exit statuses of who cannot go on, and of who is told something wrong.
CANNOT, WRONG = 1, 2


@contextlib.contextmanager
def judged(name: str, *foreseen: type[Exception], by_hand: bool = False) -> Iterator[None]:
    """Let whatever the block raises end the process ``name`` as the module says; ``foreseen`` are its own errors.
    ``by_hand``: no log has it, but the screen of whoever started it."""
    try:
        yield
    except Exception as error:  # the top: nobody's traceback reaches a person
        causes = list(_causes(error))
        if wrong := [cause for cause in causes if isinstance(cause, ConfigError)]:
            sys.exit(_told(name, str(wrong[0]), WRONG))
        if all(isinstance(cause, (*_COMMON, *_sqlite(), *foreseen)) for cause in causes):
            why = "; ".join(map(_said, causes))
            if by_hand:
                _show(name, why)
            else:
                log.error("cannot go on", extra={"why": why})
        else:
            log.exception("cannot go on, for a reason that nobody foresaw")
        sys.exit(CANNOT)


def _sqlite() -> tuple[type[Exception], ...]:
    """Give the error of SQLite on a bad disk, for who has loaded it: a guest has not."""
    return (sys.modules["sqlite3"].Error,) if "sqlite3" in sys.modules else ()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Take the errors of tasks apart that failed together."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _causes(one)
    else:
        yield error


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _told(name: str, text: str, status: int) -> int:
    """Tell whoever started it by hand; a standard error that takes nothing changes nothing."""
    log.error("wrong setting", extra={"why": text})
    _show(name, text)
    return status


def _show(name: str, text: str) -> None:
    with contextlib.suppress(OSError):
        print(plain(f"{name}: {text}"), file=sys.stderr, flush=True)  # noqa: T201
