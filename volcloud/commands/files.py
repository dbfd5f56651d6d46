"""``volcloud vm push`` and ``vm pull``: files to and from virtual machines."""

from __future__ import annotations

from pathlib import Path

import click

from volcloud.bars import file_bar, transfer_bars
from volcloud.invocation import Invocation, data_option, pass_invocation


@click.command("push")
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


@click.command("pull")
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
