"""``volcloud vm run``: commands run in virtual machines."""

from __future__ import annotations

import sys
import threading

import click

from broker.errors import BrokerError
from schemas.errors import SchemaError
from schemas.execs import ExecEnded, ExecRun, Stream
from schemas.ledger import RegistryRow
from schemas.plain_text import plain
from volcloud.amounts import Seconds
from volcloud.commands.vms import of_vm
from volcloud.errors import Failure, VolcloudError
from volcloud.invocation import Invocation, data_option, pass_invocation
from volcloud.output import LinePrefixer
from volcloud.rendering.vms import labels_of
from volcloud.screen import OutputStream
from volcloud.standard_input import has_unread
from volcloud.telling import failing_with, note, tell

#: Exit status of ``vm run`` when we failed and not the command; docker's.
WE_FAILED = 125


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
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
        ends = client.execs.run_on(
            rows, ExecRun(command=[*arguments], environment=_environment(env), timeout_s=timeout), printer.take
        )
        printer.finish()
    if not is_input_said:
        _say_input_is_left()
    labels = labels_of(rows)
    raise click.exceptions.Exit(
        max(_exit_status(labels[row.status.vm], end) for row, end in zip(rows, ends, strict=True))
    )


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
        labels = labels_of(marked)
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


def _exit_status(label: str, end: ExecEnded | BaseException) -> int:
    if isinstance(end, ExecEnded):
        if end.timed_out:
            tell(Failure(end.exit_status, f"{label}: killed after its time limit", "give more with --timeout"))
        return end.exit_status
    if not isinstance(end, VolcloudError | BrokerError | SchemaError):
        raise end
    tell(of_vm(label, end))
    return WE_FAILED


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair[1:]:
            raise click.BadParameter(f"{pair!r}: must be NAME=VALUE", param_hint="--env")
    return dict(pair.split("=", 1) for pair in pairs)
