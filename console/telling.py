"""How an error reaches a person: one sentence, one next step, and the exit status that scripts rely on.

0 ok, 1 the job or command failed, 2 usage, 3 the system cannot be reached. The one place where errors of the floors
below become exit statuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from broker.errors import (
    BrokerError,
    CallTimeout,
    LoginRefused,
    ManagementError,
    NodeError,
    NotDelivered,
    QueueGone,
    RemoteError,
    Unroutable,
)
from console.errors import ConsoleError
from schemas.errors import SchemaError

_STATUS = "see with `volcloud status` what runs"


class Verdict(Exception):
    """An error ready to be told."""

    def __init__(self, exit_status: int, message: str, next_step: str) -> None:
        super().__init__(message)
        self.exit_status, self.message, self.next_step = exit_status, message, next_step


def judge(error: ConsoleError | BrokerError | SchemaError) -> Verdict:
    """Say what to tell of an error, and which exit status it has."""
    match error:
        case ConsoleError():
            return Verdict(error.exit_status, error.message, error.next_step)
        case RemoteError():
            return Verdict(1, error.message, error.hint)
        case CallTimeout(accepted=True):
            return Verdict(1, str(error), "look at what it did before you give it again")
        case Unroutable():
            return Verdict(1, str(error), "`volcloud vm list` and `volcloud host list` show what there is")
        case CallTimeout() | NotDelivered() | LoginRefused() | QueueGone() | NodeError() | ManagementError():
            return Verdict(3, str(error), _STATUS)
        case SchemaError():
            return Verdict(2, str(error), "make it shorter; what is large belongs into files")
        case _:
            return Verdict(1, str(error), "")


@contextmanager
def telling(exit_status: int | None = None) -> Iterator[None]:
    """End the command with a clear error and its exit status, or with the one given here, whatever it was."""
    try:
        yield
    except (ConsoleError, BrokerError, SchemaError) as error:
        verdict = judge(error)
        tell(verdict.message, verdict.next_step)
        raise click.exceptions.Exit(verdict.exit_status if exit_status is None else exit_status) from error


def tell(message: str, next_step: str = "") -> None:
    """Print an error and its next step to standard error."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {message}", err=True)
    if next_step:
        click.echo(f"{click.style('Next:', bold=True)} {next_step}", err=True)
