"""How an error reaches a person: one sentence, one next step, and the exit status that scripts rely on.

0 ok, 1 the job or command failed, 2 usage, 3 the system cannot be reached, 130 interrupted, 141 nobody reads what is
printed. The one place where errors of the floors below, of the operating system and of nobody's foresight become
sentences and exit statuses; with ``--json`` they are JSON.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import msgspec

from broker.errors import (
    BrokerError,
    CallTimeout,
    LoginRefused,
    ManagementError,
    NodeError,
    NotDelivered,
    OutputLost,
    QueueGone,
    RemoteError,
    Unroutable,
)
from broker.masking import mask
from schemas.errors import SchemaError
from schemas.plain_text import plain_json, plain_lines
from volcloud import crash
from volcloud.errors import Failure, Unreachable, VolcloudError
from volcloud.screen import echo

#: Exit statuses of who was interrupted, and of who wrote to a pipe that nobody reads: the shell's, 128 + the signal.
INTERRUPTED, NOBODY_READS = 130, 141
#: Key under which a command's context says that programs read.
JSON = "volcloud.telling.json"
_ROOM = "free some space there, then do it again"
_STATUS = "see with `volcloud status` what runs"


class _ToldError(msgspec.Struct, frozen=True):
    message: str
    next_step: str
    exit_status: int


def judge(error: BaseException) -> Failure:
    """Say what to tell of an error, and which exit status it has. One that nobody foresaw is kept in a file."""
    match error:
        case Failure():
            return error
        case VolcloudError():
            return Failure(error.exit_status, error.message, error.next_step)
        case BrokerError():
            return _of_broker(error)
        case SchemaError():
            return Failure(2, str(error), "make it shorter; what is large belongs into files")
        case click.ClickException():
            return Failure(error.exit_code, error.format_message(), _help_of(error))
        case KeyboardInterrupt() | click.Abort():
            return Failure(INTERRUPTED, "interrupted")
        case OSError():
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is not None
            return Failure(1, _of_system(error), _ROOM if is_full else "")
    return _unforeseen(error)


def is_unreachable(error: BaseException) -> bool:
    """Say whether the system, or a part of it, did not answer."""
    root = error.__cause__ if isinstance(error, Failure) else error
    return isinstance(root, Unreachable | CallTimeout | NotDelivered | NodeError | ManagementError)


def _of_broker(error: BrokerError) -> Failure:
    match error:
        case RemoteError():
            return Failure(1, error.message, error.hint)
        case CallTimeout(accepted=True):
            return Failure(1, str(error), "look at what it did before you give it again")
        case Unroutable():
            return Failure(1, str(error), "`volcloud vm list` and `volcloud host list` show what there is")
        case OutputLost():
            return Failure(1, str(error), error.hint)
        case CallTimeout() | NotDelivered() | LoginRefused() | QueueGone() | NodeError() | ManagementError():
            return Failure(3, str(error), _STATUS)
    return Failure(1, str(error))


def _of_system(error: OSError) -> str:
    """Say it as the shell's own commands do: the file, then what is wrong with it."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {said}" if isinstance(error.filename, str | bytes) else said


def _help_of(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"`{context.command_path} --help` shows what is allowed" if context else ""


def _unforeseen(error: BaseException) -> Failure:
    kept = crash.keep(crash.describe(error))
    where = f"the whole account is in {kept}; please report it with that file" if kept else "please report it"
    return Failure(1, f"a fault of volcloud itself: {type(error).__name__}: {error}", where)


def told(command: Callable[[], object], *, is_json: bool) -> int:
    """Run a command to its end and give its exit status; whatever goes wrong is told. Raises nothing."""
    try:
        status = command()
        sys.stdout.flush()
    except (BrokenPipeError, click.exceptions.Exit, click.exceptions.NoArgsIsHelpError) as error:
        return _ended_early(error)
    except BaseException as error:  # noqa: BLE001  the top: nobody's traceback reaches a person
        return _told(judge(error), is_json=is_json)
    return status if isinstance(status, int) else 0


def _ended_early(error: Exception) -> int:
    """Give the exit status of an end that needs no words, or that has its own."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return error.exit_code
    silence(sys.stdout)
    return NOBODY_READS


def _told(failure: Failure, *, is_json: bool) -> int:
    with contextlib.suppress(OSError):
        _print(failure, is_json=is_json)
    try:
        sys.stdout.flush()
    except OSError:
        silence(sys.stdout)
    return failure.exit_status


@contextmanager
def failing_with(exit_status: int) -> Iterator[None]:
    """Let whatever we can say of an error end the command with this status."""
    try:
        yield
    except (VolcloudError, BrokerError, SchemaError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        failure = judge(error)
        raise Failure(exit_status, failure.message, failure.next_step) from error


def tell(failure: Failure) -> None:
    """Tell an error on standard error while the command goes on."""
    context = click.get_current_context(silent=True)
    _print(failure, is_json=bool(context and context.meta.get(JSON)))


def note(text: str) -> None:
    """Tell something that is no error, on standard error: programs that read are not told."""
    context = click.get_current_context(silent=True)
    if not (context and context.meta.get(JSON)):
        echo(f"{_marked('Note:')} {_indented(text)}", err=True)


def silence(stream: object) -> None:
    """Let what a broken stream still holds go nowhere: Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[attr-defined]
        os.close(nowhere)


def _print(told: Failure, *, is_json: bool) -> None:
    failure = Failure(told.exit_status, mask(told.message), mask(told.next_step))
    if is_json:
        error = {"error": _ToldError(plain_lines(failure.message), plain_lines(failure.next_step), failure.exit_status)}
        sys.stderr.write(plain_json(msgspec.json.encode(error).decode()) + "\n")
        return
    sys.stderr.write(f"{_marked('Error:', '31')} {_indented(failure.message)}\n")
    if failure.next_step:
        sys.stderr.write(f"{_marked('Next:')} {_indented(failure.next_step)}\n")
    sys.stderr.flush()


def _indented(text: str) -> str:
    """Give further lines of a text an indent, so that none of them looks like one of ours."""
    return plain_lines(text).replace("\n", "\n  ")


def _marked(word: str, colour: str = "") -> str:
    codes = ";".join(filter(None, ("1", colour)))
    return f"\x1b[{codes}m{word}\x1b[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else word
