"""``volcloud vm …``: virtual machines, and the verbs on them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import click

from broker.errors import BrokerError
from schemas.errors import SchemaError
from schemas.ledger import RegistryRow
from schemas.plain_text import plain_all
from schemas.vms import VmCommand, VmDiscard, VmStatus, vm_verbs
from volcloud.amounts import Mib, Seconds, Whole
from volcloud.client.vms import STOP_S
from volcloud.errors import CommandFailed, Failure, VolcloudError
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.later import LaterGroup
from volcloud.rendering.vms import labels_of, render_vms
from volcloud.rendering.words import state
from volcloud.telling import judge, tell

#: State of a VM that its host has and its agent does not know.
_SET_ASIDE = "set_aside"
#: In which module each is that is not here.
_ELSEWHERE = {
    "attach": "detached",
    "events": "vm_events",
    "kill": "detached",
    "log": "looks",
    "ps": "detached",
    "pull": "files",
    "push": "files",
    "run": "execs",
    "screenshot": "looks",
    "shell": "shell",
    "show": "vm_show",
    "snapshot": "snapshots",
    "stats": "looks",
}


@click.group("vm", cls=LaterGroup, later={name: f"volcloud.commands.{module}" for name, module in _ELSEWHERE.items()})
def vm() -> None:
    """Drive virtual machines.

    A VM is named by its name, its id, or a pattern such as 'atlas-*', which stands for all that it fits.
    """


@vm.command("list")
@click.argument("pattern", default="*")
@data_option
@json_option
@pass_invocation
def list_vms(invocation: Invocation, pattern: str) -> None:
    """List the VMs that the centre knows.

    \b
    Example:
      volcloud vm list 'atlas-*'
    """
    with invocation.client() as client:
        rows = client.vms.list(pattern)
    invocation.show(rows, render_vms)


@vm.command("create")
@click.argument("name")
@click.option("--host", default="", help="On this host.  [default: the only one]")
@click.option("--cpus", default=1, show_default=True, type=Whole(1, 256), help="Virtual cpus.")
@click.option("--memory", default=768, show_default=True, type=Mib(64), metavar="MIB", help="Memory; 2GB will do.")
@click.option("--disk", default=4096, show_default=True, type=Mib(64), metavar="MIB", help="Disk.")
@click.option("--image", default="", metavar="SHA256", help="Image id.  [default: the host's]")
@click.option("--autostart", is_flag=True, help="Start it again whenever it aborts.")
@data_option
@json_option
@pass_invocation
def create(
    invocation: Invocation, name: str, host: str, cpus: int, memory: int, disk: int, image: str, autostart: bool
) -> None:
    """Make the VM NAME; start it with `volcloud vm start`.

    \b
    Example:
      volcloud vm create atlas-1 --cpus 2 --memory 2048
    """
    size = {"cpus": cpus, "memory_mib": memory, "disk_mib": disk}
    with invocation.client() as client:
        status = client.vms.create(name, host=host, image=image, autostart=autostart, **size)
    invocation.show(status, lambda one: _told(one.name, one))


def carry_out(invocation: Invocation, /, name: str, message: type[VmCommand], **more: float | str) -> None:
    """Give a verb to each VM that ``name`` fits, with ``more`` of the command's fields, and show what came of it."""
    done: dict[str, VmStatus | None] = {}
    with invocation.client() as client:
        rows = client.vms.find(name)
        labels = labels_of(rows)
        for row in rows:
            try:
                _check_named(message, row, name, rows)
                done[row.status.vm] = client.vms.command(row, message, **more)
            except (VolcloudError, BrokerError) as error:
                tell(of_vm(labels[row.status.vm], error))
    shown = plain_all(labels)
    invocation.show(done, lambda them: "\n".join(_told(shown[vm], one) for vm, one in them.items()))
    if len(done) < len(rows):
        raise click.exceptions.Exit(1)


def _add_verb(word: str, message: type[VmCommand]) -> None:
    """Make the command for a verb: they differ in nothing but the word and the message."""
    text = inspect.cleandoc(message.__doc__ or "")

    @vm.command(word, help=f"{text}\n\n\b\nExample:\n  volcloud vm {word} 'atlas-*'")
    @click.argument("name")
    @data_option
    @json_option
    @pass_invocation
    def verb(invocation: Invocation, /, name: str, **more: float) -> None:
        carry_out(invocation, name, message, **more)

    if "timeout_s" in message.__struct_fields__:
        said = "How long each guest may take; it runs on if it takes longer."
        verb.params.append(
            click.Option(
                ["--timeout", "timeout_s"], default=STOP_S, show_default=True, type=Seconds(), metavar="TIME", help=said
            )
        )


for _word, _message in vm_verbs().items():
    # Those on a snapshot are a group of their own.
    if "snapshot" not in _message.__struct_fields__:
        _add_verb(_word, _message)


def _check_named(message: type[VmCommand], row: RegistryRow, name: str, rows: Sequence[RegistryRow]) -> None:
    """Discarding a VM that was set aside removes its disk: what fits another VM too does not name it."""
    is_aside = row.status.state == _SET_ASIDE
    names_it = name == row.status.vm or (name == row.status.name and len(rows) == 1)
    if message is VmDiscard and is_aside and not names_it:
        raise CommandFailed(
            f"{row.status.name} was set aside, and discard would remove its disk",
            f"name it alone: `volcloud vm discard {row.status.vm}`",
        )


def _told(name: str, status: VmStatus | None) -> str:
    word = state(status.state).plain if status else "deleted"
    return f"{name}: {word}" + (f" ({status.reason})" if status and status.reason else "")


def of_vm(label: str, error: VolcloudError | BrokerError | SchemaError) -> Failure:
    """Say of an error to which VM it belongs."""
    failure = judge(error)
    return Failure(failure.exit_status, f"{label}: {failure.message}", failure.next_step)
