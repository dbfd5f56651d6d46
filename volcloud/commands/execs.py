"""``volcloud vm run``: commands run in virtual machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

from broker.errors import BrokerError, CallTimeout
from broker.rpc.caller import ACCEPT_TIMEOUT_S
from broker.rpc.input import InputSource
from schemas.errors import SchemaError
from schemas.execs import ExecEnded, ExecRun
from schemas.ledger import RegistryRow
from schemas.plain_text import plain, plain_json
from volcloud.amounts import Seconds
from volcloud.client import Client
from volcloud.client.execs import DETACHED_S
from volcloud.commands.exec_output import Collector, Printer
from volcloud.commands.vms import of_vm
from volcloud.errors import Failure, VolcloudError
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.vms import labels_of
from volcloud.screen import echo
from volcloud.standard_input import SharedInput, StandardInput, is_given
from volcloud.telling import failing_with, tell

F = TypeVar("F", bound=Callable[..., Any])

#: Exit status of ``vm run`` when we failed and not the command; docker's.
WE_FAILED = 125
#: How long a command with us as its console may run unless it is said, seconds.
ATTENDED_S = 3600.0
#: How a command takes its words: what stands behind the VM is the VM's, options and all.
WORDS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def place_options(command: F) -> F:
    """Add what says as whom, where and with what a command runs."""
    for option in (
        click.option("--cwd", "-w", default="", metavar="DIRECTORY", help="Run it there. [default: the file area]"),
        click.option("--user", "-u", default="", metavar="USER", help="Run it as this user of the guest."),
        click.option("--env", "-e", multiple=True, metavar="NAME=VALUE", help="Set a variable of its environment."),
    ):
        command = option(command)
    return command


def environment_of(pairs: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE. Raises BadParameter."""
    for pair in pairs:
        if not all(pair.partition("=")[:2]):
            raise click.BadParameter(f"{pair!r}: must be NAME=VALUE, and NAME not empty", param_hint="--env")
    return dict(pair.split("=", 1) for pair in pairs)


def words_of(command: tuple[str, ...]) -> list[str]:
    """Give the words of a command, without the mark before them. Raises BadParameter for what is meant as an option."""
    if command[:1] == ("--",):
        return [*command[1:]]
    if command and command[0].startswith("-"):
        where = "options stand before the VM's name; a program of such a name stands behind --"
        raise click.BadParameter(f"{command[0]!r}: {where}", param_hint="COMMAND")
    return [*command]


@click.command("run", context_settings=WORDS)
@place_options
@click.option("--interactive", "-i", is_flag=True, help="Pass standard input on though it is a terminal.")
@click.option("--detach", "-d", is_flag=True, help="Print its id and leave it running; see `volcloud vm attach`.")
@click.option(
    "--timeout", type=Seconds(), metavar="SECONDS", help="Kill it after this time.  [default: 1 h; detached: 1 day]"
)
@click.option(
    "--patience",
    default=ACCEPT_TIMEOUT_S,
    show_default=True,
    type=Seconds(),
    metavar="SECONDS",
    help="Give a VM up whose agent has not begun it by then.",
)
@data_option
@json_option
@click.argument("name", metavar="VM")
@click.argument("command", nargs=-1, required=True)
@pass_invocation
def run(
    invocation: Invocation,
    name: str,
    command: tuple[str, ...],
    env: tuple[str, ...],
    user: str,
    cwd: str,
    interactive: bool,
    detach: bool,
    timeout: float | None,
    patience: float,
) -> None:
    """Run COMMAND in a VM; its input and output are ours, and so is its exit status.

    With a pattern it runs in every VM that can answer; lines bear the VM's name, and standard input goes to all. Those
    that cannot answer are named, each with what to do. The exit status is the worst of the commands'; 125 means that
    we failed and not the command, in one VM at least. Ctrl-C goes to the command; twice kills it. A reader of our
    output that goes away ends it too, and what it leaves in the VM ends with it.

    Standard input is passed on when it is a pipe or a file; of a terminal only with -i. In a loop that reads a list,
    give it </dev/null, or it takes the list. With --json there is one line a VM.

    \b
    Example:
      volcloud vm run atlas-1 -- uname -a
      volcloud vm run --patience 5 'atlas-*' -- df -h /
    """
    words = words_of(command)
    if not words:
        raise click.UsageError("Missing argument 'COMMAND...'.")
    order = ExecRun(command=words, environment=environment_of(env), directory=cwd, user=user)
    with failing_with(WE_FAILED), invocation.client() as client:
        rows = client.vms.find(name)
        if detach:
            limits = {"timeout_s": timeout or DETACHED_S, "patience_s": patience}
            status = _detach(invocation, client, rows, order, limits)
        else:
            ordered = ExecRun(**_fields(order), timeout_s=timeout or ATTENDED_S)
            is_marked = len(rows) > 1 or "*" in name or "?" in name
            output = Collector() if invocation.is_json else Printer(rows if is_marked else [])
            ends = client.execs.run_on(
                rows, ordered, output.take, sources=_sources(rows, interactive), patience_s=patience
            )
            output.finish()
            status = _told(rows, ends, output, patience)
    raise click.exceptions.Exit(status)


def _fields(order: ExecRun) -> dict[str, Any]:
    names = ("command", "environment", "directory", "user")
    return {name: getattr(order, name) for name in names}


def _sources(rows: Sequence[RegistryRow], interactive: bool) -> dict[str, InputSource]:
    """Give each VM's command its reader of our standard input, where that is to be passed on."""
    if not interactive and not is_given():
        return {}
    shared = SharedInput(StandardInput())
    return {row.status.vm: shared.reader() for row in rows}


def _detach(
    invocation: Invocation, client: Client, rows: Sequence[RegistryRow], order: ExecRun, limits: dict[str, float]
) -> int:
    """Begin it in all VMs at once and print its id in each as soon as it has begun there, behind the VM's name where
    there are several."""
    labels = labels_of(rows)

    def show(row: RegistryRow, exec_id: str) -> None:
        vm = row.status.vm
        if invocation.is_json:
            told = {"vm": vm, "name": row.status.name, "host": row.host, "id": exec_id}
            echo(plain_json(msgspec.json.encode(told).decode()))
        else:
            echo(exec_id if len(rows) == 1 else f"{plain(labels[vm])} {exec_id}")

    more: dict[str, Any] = {"directory": order.directory, "user": order.user, "on_begun": show, **limits}
    begun = client.execs.detach_on(rows, order.command, env=order.environment, **more)
    failed = [(row, one) for row, one in zip(rows, begun, strict=True) if not isinstance(one, str)]
    for row, error in failed:
        tell(_failure(labels[row.status.vm], row, error, limits["patience_s"]))
    return WE_FAILED if failed else 0


def _told(
    rows: Sequence[RegistryRow],
    ends: Sequence[ExecEnded | BaseException],
    output: Printer | Collector,
    patience_s: float,
) -> int:
    """Tell of each VM what there is to be told, and give the worst exit status; ours is the worst of all."""
    labels, statuses = labels_of(rows), []
    for row, end in zip(rows, ends, strict=True):
        told = end if isinstance(end, ExecEnded) else _failure(labels[row.status.vm], row, end, patience_s)
        if isinstance(output, Collector):
            output.tell(row, told)
        elif isinstance(told, Failure):
            tell(told)
        elif told.timed_out:
            text = f"{labels[row.status.vm]}: killed after its time limit"
            tell(Failure(told.exit_status, text, "give more with --timeout"))
        statuses.append(WE_FAILED if isinstance(told, Failure) else told.exit_status)
    failed = any(not isinstance(end, ExecEnded) for end in ends)
    return WE_FAILED if failed else max(statuses)


def _failure(label: str, row: RegistryRow, error: BaseException, patience_s: float) -> Failure:
    """Say why there is no end of the command in one VM, and what to do. Raises what is no error of ours."""
    if not isinstance(error, VolcloudError | BrokerError | SchemaError):
        raise error
    if isinstance(error, CallTimeout) and not error.accepted:
        text = (
            f"{label}: its agent does not answer in {patience_s:g} s, it is down or cut off; the command will not run"
        )
        return Failure(WE_FAILED, text, f"`volcloud vm reset {row.status.vm}` reboots it; `volcloud vm list` shows it")
    failure = of_vm(label, error)
    return Failure(WE_FAILED, failure.message, failure.next_step)
