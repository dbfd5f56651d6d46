"""``volcloud vm stats``, ``vm screenshot`` and ``vm log``: looking into virtual machines from outside."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.live import Live
from rich.text import Text

from broker import durable
from broker.errors import BrokerError, CallTimeout, Unroutable
from schemas.ledger import RegistryRow
from schemas.looks import MOST_LOG_LINES, VmCounters
from schemas.plain_text import plain_all, plain_json
from volcloud.amounts import Seconds, Whole
from volcloud.client import Client
from volcloud.client.looks import LogPage, VmUsage
from volcloud.commands.vms import of_vm
from volcloud.errors import BadInput, VolcloudError
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rates import rates
from volcloud.rendering.looks import UsageRow, render_usage
from volcloud.rendering.vms import labels_of
from volcloud.screen import OutputStream, echo, screen
from volcloud.telling import judge, note, tell

#: A host that is away is asked again after so long, seconds.
ASK_AGAIN_S = 2.0
Found = Sequence[VmUsage | VolcloudError | BrokerError]

#: Mode of a picture's file: as any other that a person makes, but for his umask.
_PICTURE_MODE = 0o644
_FILE_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9-]{0,99}")


@click.command("stats")
@click.argument("name", metavar="VM|PATTERN", default="*")
@click.option("--watch", is_flag=True, help="Show what they use a second, again and again, until Ctrl-C.")
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=Seconds(),
    metavar="TIME",
    help="Between two looks, with --watch.",
)
@data_option
@json_option
@pass_invocation
def stats(invocation: Invocation, name: str, watch: bool, interval: float) -> None:
    """Show what VMs use of their hosts: cpu, memory, disk and network.

    CPU, READ, WRITTEN, RECEIVED and SENT count from the start of the VM's process, FOR so long; with --watch they are
    what is used a second. With both --watch and --json a line is printed for each VM and round. What a hypervisor does
    not count is shown as '-'.

    \b
    Example:
      volcloud vm stats 'atlas-*' --watch
    """
    with invocation.client() as client:
        if watch:
            with _ending_quietly():
                _watch(invocation, client, name, interval)
        else:
            rows = client.vms.find(name)
            if not _show(invocation, rows, client.vms.stats_of(rows)):
                raise click.exceptions.Exit(1)


def _show(invocation: Invocation, rows: Sequence[RegistryRow], found: Found) -> bool:
    """Show what was found, and tell what could not be; say whether there was nothing of that."""
    labels = labels_of(rows)
    usages = [one for one in found if isinstance(one, VmUsage)]
    for row, one in zip(rows, found, strict=True):
        if not isinstance(one, VmUsage):
            tell(of_vm(labels[row.status.vm], one))
    invocation.show(usages, lambda them: render_usage([UsageRow(plain_all(labels)[one.vm], one) for one in them]))
    return len(usages) == len(rows)


def _watch(invocation: Invocation, client: Client, name: str, interval_s: float) -> None:
    before: dict[str, VmCounters] = {}
    console = screen()
    draws = console.is_terminal and not invocation.is_json
    with Live(console=console, auto_refresh=False) if draws else contextlib.nullcontext() as live:
        while True:
            rows = client.vms.find(name)
            found = client.vms.stats_of(rows)
            shown = render_usage(_rated(rows, found, before), is_watched=True)
            if invocation.is_json:
                _print_lines(rows, found)
            elif live is not None:
                live.update(shown, refresh=True)
            else:
                console.print(shown)
            before = {one.vm: one.counters for one in found if isinstance(one, VmUsage)}
            time.sleep(interval_s)


def _rated(rows: Sequence[RegistryRow], found: Found, before: dict[str, VmCounters]) -> list[UsageRow]:
    labels = plain_all(labels_of(rows))
    return [
        UsageRow(labels[row.status.vm], one, rates(before.get(one.vm), one.counters))
        if isinstance(one, VmUsage)
        else UsageRow(labels[row.status.vm], None, reason=judge(one).message)
        for row, one in zip(rows, map(_plain, found), strict=True)
    ]


def _plain(one: VmUsage | VolcloudError | BrokerError) -> VmUsage | VolcloudError | BrokerError:
    return plain_all(one) if isinstance(one, VmUsage) else one


def _print_lines(rows: Sequence[RegistryRow], found: Found) -> None:
    """Print a line of JSON for each VM; one that could not be asked has an error in place of counters."""
    for row, one in zip(rows, found, strict=True):
        told = one if isinstance(one, VmUsage) else {"vm": row.status.vm, "name": row.status.name, "error": _said(one)}
        echo(plain_json(msgspec.json.encode(told).decode()))


def _said(error: VolcloudError | BrokerError) -> str:
    return judge(error).message


@contextmanager
def _ending_quietly() -> Iterator[None]:
    """Let Ctrl-C be the way to end what goes on for ever."""
    try:
        yield
    except KeyboardInterrupt:
        raise click.exceptions.Exit(0) from None


@click.command("screenshot")
@click.argument("name", metavar="VM")
@click.argument("file", metavar="[FILE.png]", required=False)
@data_option
@json_option
@pass_invocation
def screenshot(invocation: Invocation, name: str, file: str | None) -> None:
    """Write what is on a VM's screen into FILE.png, whole or not at all. [default: the VM's name, here]

    '-' is standard output, but not a terminal.

    \b
    Example:
      volcloud vm screenshot atlas-1 boot.png
    """
    if file == "-" and sys.stdout.isatty():
        raise BadInput("FILE = '-': a terminal shows no PNG", "name a file, or pipe it into a viewer")
    with invocation.client() as client:
        row = client.vms.get(name)
        picture = client.vms.screenshot(row.status.vm)
    if file == "-":
        sys.stdout.buffer.write(picture)
        return
    own_name = f"{_file_name(row)}.png"
    path = Path(file) if file else Path(own_name)
    path = path / own_name if path.is_dir() else path
    durable.replace(path, picture, mode=_PICTURE_MODE & ~_umask())
    made = {"vm": row.status.vm, "name": row.status.name, "file": str(path), "size": len(picture)}
    invocation.show(made, lambda one: Text(f"{one['name']}: {one['file']}, {one['size']} bytes"))


def _file_name(row: RegistryRow) -> str:
    """Name a picture. A VM's name and id are its host's words: what else than a name is becomes no path."""
    words = (row.status.name, row.status.vm)
    return next((word for word in words if _FILE_NAME.fullmatch(word)), "screenshot")


def _umask() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


@click.command("log")
@click.argument("name", metavar="VM")
@click.option("--follow", "-f", is_flag=True, help="Go on with what it prints, also in later boots, until Ctrl-C.")
@click.option(
    "--lines", "-n", default=100, show_default=True, type=Whole(0, MOST_LOG_LINES), help="So many from the end."
)
@data_option
@json_option
@pass_invocation
def log(invocation: Invocation, name: str, follow: bool, lines: int) -> None:
    """Show what a VM has printed on its serial console since its newest boot.

    How it began and how it went on last are kept; where something is left out, a line says how much. With both --follow
    and --json a line is printed for each piece.

    \b
    Example:
      volcloud vm log atlas-1 --lines 20
    """
    with invocation.client() as client:
        page = client.vms.log(name, lines=lines)
        take = _taker(invocation, follow)
        take(page)
        if follow:
            with _ending_quietly():
                _follow(client, page, take)
    if not page.boot and not invocation.is_json:
        note(f"{name} has printed nothing that is kept")


def _taker(invocation: Invocation, is_followed: bool) -> Callable[[LogPage], None]:
    """Give what shows a page: strangers' bytes go to a terminal as text, and to a pipe as they are."""
    if not invocation.is_json:
        output = OutputStream(sys.stdout)
        return lambda page: output.write(page.text)

    def take(page: LogPage) -> None:
        told = {name: getattr(page, name) for name in ("vm", "host", "boot", "is_new_boot", "cut_bytes")}
        line = msgspec.json.encode(told | {"text": page.text.decode(errors="replace")}).decode()
        if page.text or not is_followed:
            echo(plain_json(line))

    return take


def _follow(client: Client, page: LogPage, take: Callable[[LogPage], None]) -> None:
    is_told = False
    while True:
        try:
            after = client.vms.log_after(page)
        except (CallTimeout, Unroutable) as error:
            # The host's agent is away; the VM may go on, and what it prints meanwhile is asked for later.
            if not is_told:
                note(f"{error}; it is asked again, Ctrl-C ends that")
            is_told = True
            time.sleep(ASK_AGAIN_S)
            continue
        is_told = False
        if after.is_new_boot:
            note("the VM has booted again")
        take(after)
        page = after
