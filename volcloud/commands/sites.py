"""``volcloud site …``: logins of grid sites that feed jobs into the queue."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from broker.address import write_address
from volcloud.data_directory import console_address, credential_path
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation


@click.group("site")
def site() -> None:
    """Give grid sites a login, and take it away."""


@site.command("add")
@click.argument("name")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="File for the login.")
@data_option
@json_option
@pass_invocation
def add(invocation: Invocation, name: str, output: Path | None) -> None:
    """Make the site NAME, or find it; save its login in a file that only you can read.

    The site publishes its jobs with it, and reads from its own queue, site.NAME, what becomes of them.

    \b
    Example:
      volcloud site add cern -o cern.json
    """
    with invocation.client() as client:
        credential = client.sites.add(name)
    broker = console_address(invocation.directory)
    address = msgspec.structs.replace(broker, user=credential.user, password=credential.password)
    path = output or credential_path(invocation.directory, credential.user)
    write_address(path, address)
    written = {"user": credential.user, "file": str(path.absolute())}
    invocation.show(written, lambda one: f"{one['user']}: {one['file']}")


@site.command("delete")
@click.argument("name")
@data_option
@pass_invocation
def delete(invocation: Invocation, name: str) -> None:
    """Delete the site NAME with its queue; its login is refused from then on. Its jobs stay.

    \b
    Example:
      volcloud site delete cern
    """
    with invocation.client() as client:
        client.sites.delete(name)
    credential_path(invocation.directory, f"site-{name}").unlink(missing_ok=True)
    invocation.say(f"site-{name} deleted")
