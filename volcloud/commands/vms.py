"""``volcloud vm …``: virtual machines, the commands run in them, and files to and from them."""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from broker.errors import BrokerError
from schemas.errors import SchemaError
from schemas.execs import ExecEnded, Stream
from schemas.ledger import RegistryRow
from schemas.plain_text import plain, plain_all
from schemas.vms import VmCommand, VmDiscard, VmStatus, vm_verbs
from volcloud.amounts import Mib, Seconds, Whole
from volcloud.bars import file_bar, transfer_bars
from volcloud.client.vms import STOP_S
from volcloud.errors import CommandFailed, Failure, VolcloudError
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.output import LinePrefixer
from volcloud.rendering.vms import render_vms
from volcloud.rendering.words import state
from volcloud.screen import OutputStream
from volcloud.standard_input import has_unread
from volcloud.telling import failing_with, judge, note, tell

#: State of a VM that its host has and its agent does not know.
_SET_ASIDE = "set_aside"
#: Exit status of ``vm run`` when we failed and not the command; docker's.
WE_FAILED = 125


@click.group("vm")
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


def _add_verb(word: str, message: type[VmCommand]) -> None:
    """Make the command for a verb: they differ in nothing but the word and the message."""
    text = inspect.cleandoc(message.__doc__ or "")

    @vm.command(word, help=f"{text}\n\n\b\nExample:\n  volcloud vm {word} 'atlas-*'")
    @click.argument("name")
    @data_option
    @json_option
    @pass_invocation
    def verb(invocation: Invocation, /, name: str, **more: float) -> None:
        done: dict[str, VmStatus | None] = {}
        with invocation.client() as client:
            rows = client.vms.find(name)
            labels = _labels(rows)
            for row in rows:
                try:
                    _check_named(message, row, name, rows)
                    done[row.status.vm] = client.vms.command(row, message, **more)
                except (VolcloudError, BrokerError) as error:
                    tell(_of_vm(labels[row.status.vm], error))
        shown = plain_all(labels)
        invocation.show(done, lambda them: "\n".join(_told(shown[vm], one) for vm, one in them.items()))
        if len(done) < len(rows):
            raise click.exceptions.Exit(1)

    if "timeout_s" in message.__struct_fields__:
        said = "How long each guest may take; it runs on if it takes longer."
        verb.params.append(
            click.Option(
                ["--timeout", "timeout_s"], default=STOP_S, show_default=True, type=Seconds(), metavar="TIME", help=said
            )
        )


for _word, _message in vm_verbs().items():
    _add_verb(_word, _message)


@vm.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--env", "-e", multiple=True, metavar="NAME=VALUE", help="Set a variable of the command's environment.")
@click.option(
    "--timeout", default=3600.0, show_default=True, type=Seconds(), metavar="SECONDS", help="Kill it after this time."
)
@data_option
@click.argument("name", metavar="VM")
@click.argument("command", nargs=-1, required=True)
@pass_invocation
def run(invocation: Invocation, name: str, command: tuple[str, ...], env: tuple[str, ...], timeout: float) -> None:
    """Run COMMAND in a VM; its output is ours, and so is its exit status.

    With a pattern it runs in every VM that fits, lines bear the VM's name, and the exit status is the worst. 125 means
    that we failed and not the command. Ctrl-C goes to the command; twice kills it. A reader of our output that goes
    away ends it too. Standard input is not passed to it: push a file, and let it read that.

    \b
    Example:
      volcloud vm run atlas-1 -- uname -a
    """
    with failing_with(WE_FAILED), invocation.client() as client:
        rows = client.vms.find(name)
        printer = _Printer(rows if len(rows) > 1 or "*" in name or "?" in name else [])
        arguments = command[1:] if command[0] == "--" else command
        is_input_said = _say_input_is_left()
        ends = client.execs.run_on(rows, arguments, _environment(env), printer.take, timeout_s=timeout)
        printer.finish()
    if not is_input_said:
        _say_input_is_left()
    labels = _labels(rows)
    raise click.exceptions.Exit(
        max(_exit_status(labels[row.status.vm], end) for row, end in zip(rows, ends, strict=True))
    )


@vm.command("push")
@click.argument("name", metavar="VM")
@click.argument("local", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("path", default="")
@data_option
@pass_invocation
def push(invocation: Invocation, name: str, local: Path, path: str) -> None:
    """Send the file LOCAL into a VM, to PATH below its agent's file area (by default under its own name).

    A PATH that is a directory there receives it under its own name, as with cp.

    \b
    Example:
      volcloud vm push atlas-1 card.dat inputs/card.dat
    """
    with invocation.client() as client, transfer_bars() as bars:
        sha256 = client.files.push(local, name, path or local.name, progress=file_bar(bars, local.name))
    invocation.say(f"{local} is {path or local.name} in {name} (SHA-256 {sha256[:12]}…)")


@vm.command("pull")
@click.argument("name", metavar="VM")
@click.argument("path")
@click.argument("local", type=click.Path(path_type=Path), required=False)
@data_option
@pass_invocation
def pull(invocation: Invocation, name: str, path: str, local: Path | None) -> None:
    """Take the file PATH out of a VM's file area, to LOCAL, a file or a directory (by default its name, here).

    \b
    Example:
      volcloud vm pull atlas-1 outputs/events.root
    """
    own_name = Path(Path(path).name)
    target = local / own_name if local is not None and local.is_dir() else local or own_name
    with invocation.client() as client, transfer_bars() as bars:
        size = client.files.pull(name, path, target, progress=file_bar(bars, target.name))
    invocation.say(f"{target}: {size} bytes")


def _say_input_is_left() -> bool:
    """Say that the command got none of our standard input, where there is any; a pipe may fill only later."""
    if not has_unread():
        return False
    note("standard input is not passed to the command; `volcloud vm push` brings it there as a file")
    return True


class _Printer:
    """Writes output as it comes; marked by line where it comes from several VMs."""

    def __init__(self, marked: list[RegistryRow]) -> None:
        outputs = {Stream.STDOUT: sys.stdout, Stream.STDERR: sys.stderr}
        self._streams = {stream: OutputStream(output, is_marked=bool(marked)) for stream, output in outputs.items()}
        labels = _labels(marked)
        width = max(map(len, labels.values()), default=0)
        self._prefixers = {
            (row.status.vm, stream): LinePrefixer(f"{plain(labels[row.status.vm]):<{width}} | ")
            for row in marked
            for stream in self._streams
        }
        self._lock = threading.Lock()

    def take(self, row: RegistryRow, stream: Stream, data: bytes) -> None:
        prefixer = self._prefixers.get((row.status.vm, stream))
        self._write(stream, prefixer.take(data) if prefixer else data)

    def finish(self) -> None:
        for (_, stream), prefixer in self._prefixers.items():
            self._write(stream, prefixer.finish())
        for output in self._streams.values():
            output.finish()

    def _write(self, stream: Stream, data: bytes) -> None:
        with self._lock:
            self._streams[stream].write(data)


def _labels(rows: Sequence[RegistryRow]) -> dict[str, str]:
    """Give by id what a person knows each VM by: its name, with its host where two have the same, and with its id where
    both are on one host."""
    names = Counter(row.status.name for row in rows)
    places = Counter((row.status.name, row.host) for row in rows)
    return {row.status.vm: _label(row, names, places) for row in rows}


def _label(row: RegistryRow, names: Counter[str], places: Counter[tuple[str, str]]) -> str:
    name = row.status.name
    if names[name] == 1:
        return name
    return f"{name} on {row.host}" if places[name, row.host] == 1 else f"{name} ({row.status.vm}) on {row.host}"


def _check_named(message: type[VmCommand], row: RegistryRow, name: str, rows: Sequence[RegistryRow]) -> None:
    """Discarding a VM that was set aside removes its disk: what fits another VM too does not name it."""
    is_aside = row.status.state == _SET_ASIDE
    names_it = name == row.status.vm or (name == row.status.name and len(rows) == 1)
    if message is VmDiscard and is_aside and not names_it:
        raise CommandFailed(
            f"{row.status.name} was set aside, and discard would remove its disk",
            f"name it alone: `volcloud vm discard {row.status.vm}`",
        )


def _exit_status(label: str, end: ExecEnded | BaseException) -> int:
    if isinstance(end, ExecEnded):
        if end.timed_out:
            tell(Failure(end.exit_status, f"{label}: killed after its time limit", "give more with --timeout"))
        return end.exit_status
    if not isinstance(end, VolcloudError | BrokerError | SchemaError):
        raise end
    tell(_of_vm(label, end))
    return WE_FAILED


def _of_vm(label: str, error: VolcloudError | BrokerError | SchemaError) -> Failure:
    failure = judge(error)
    return Failure(failure.exit_status, f"{label}: {failure.message}", failure.next_step)


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair[1:]:
            raise click.BadParameter(f"{pair!r}: must be NAME=VALUE", param_hint="--env")
    return dict(pair.split("=", 1) for pair in pairs)


def _told(name: str, status: VmStatus | None) -> str:
    word = state(status.state).plain if status else "deleted"
    return f"{name}: {word}" + (f" ({status.reason})" if status and status.reason else "")
