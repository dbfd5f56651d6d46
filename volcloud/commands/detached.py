"""``volcloud vm ps``, ``attach``, ``kill``: commands that run in virtual machines without us."""

from __future__ import annotations

import signal
from typing import Any

import click
import msgspec
from rich.console import RenderableType

from broker.errors import BrokerError
from schemas.errors import SchemaError
from schemas.execs import ExecRow
from volcloud.commands.exec_output import Printer
from volcloud.commands.execs import WE_FAILED
from volcloud.commands.vms import of_vm
from volcloud.errors import VolcloudError
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.execs import render_execs
from volcloud.rendering.vms import labels_of
from volcloud.telling import failing_with, tell


class VmCommandRow(msgspec.Struct, kw_only=True):
    """A command, and the VM that it is in."""

    vm: str
    name: str
    host: str
    command: ExecRow


class SignalName(click.ParamType[Any]):
    """A signal, by its name with or without SIG, or its number."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        text = str(value).upper()
        if text.isdecimal() and 1 <= int(text) <= 64:
            return int(text)
        name = text if text.startswith("SIG") else f"SIG{text}"
        if name not in signal.Signals.__members__:
            text = f"{value!r} must be the name of a signal, or a number from 1 to 64; an example: -s INT"
            self.fail(text, param, ctx)
        return int(signal.Signals[name])


@click.command("ps")
@click.argument("name", default="*", metavar="[VM]")
@data_option
@json_option
@pass_invocation
def ps(invocation: Invocation, name: str) -> None:
    """List the commands that run in VMs, and the detached ones that have ended and are kept.

    A VM keeps its last 32 for a week, and 256 MiB of their output. Those VMs that cannot answer are named.

    \b
    Example:
      volcloud vm ps atlas-1
    """
    with invocation.client() as client:
        vms = client.vms.find(name)
        found = client.execs.list_on(vms)
    labels, rows, failed = labels_of(vms), [], False
    for vm, commands in zip(vms, found, strict=True):
        if isinstance(commands, VolcloudError | BrokerError | SchemaError):
            tell(of_vm(labels[vm.status.vm], commands))
            failed = True
        elif isinstance(commands, BaseException):
            raise commands
        else:
            rows += [VmCommandRow(vm=vm.status.vm, name=vm.status.name, host=vm.host, command=one) for one in commands]

    def render(shown: list[VmCommandRow]) -> RenderableType:
        return render_execs([one.command for one in shown], [one.name for one in shown])

    invocation.show(rows, render)
    if failed:
        raise click.exceptions.Exit(1)


@click.command("attach")
@click.argument("name", metavar="VM")
@click.argument("id_", metavar="ID")
@data_option
@pass_invocation
def attach(invocation: Invocation, name: str, id_: str) -> None:
    """Give the whole output of a detached command so far, then what comes; end with its exit status.

    It may be done again, also when the command has ended, by one at a time. Ctrl-C leaves it running. Of long output
    the VM keeps 8 MiB of the head and 8 MiB of the tail, and a line says how much was cut. 125 means that we failed.

    \b
    Example:
      volcloud vm attach atlas-1 $(volcloud vm run --detach atlas-1 -- make -j2)
    """
    with failing_with(WE_FAILED), invocation.client() as client:
        vm = client.vms.get(name)
        printer = Printer([])
        ended = client.execs.attach(vm.status.vm, id_, lambda stream, data: printer.take(vm, stream, data))
        printer.finish()
    raise click.exceptions.Exit(ended.exit_status)


@click.command("kill")
@click.option("--signal", "-s", "number", default="TERM", show_default=True, type=SignalName(), help="Send this one.")
@click.argument("name", metavar="VM")
@click.argument("id_", metavar="ID")
@data_option
@pass_invocation
def kill(invocation: Invocation, number: int, name: str, id_: str) -> None:
    """Send a signal to the process group of a command of yours in a VM. KILL ends all that it has started.

    \b
    Example:
      volcloud vm kill -s INT atlas-1 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b
    """
    with invocation.client() as client:
        client.execs.kill(name, id_, number)
