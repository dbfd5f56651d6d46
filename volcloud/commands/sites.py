"""``volcloud site …``: logins of grid sites that feed jobs into the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from broker.address import read_address, write_address
from volcloud.data_directory import console_address, credential_path
from volcloud.errors import BadInput
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.sites import render_owners

#: Stands for: as many as the centre's settings say.
DEFAULT = -1
MOST_WAITING = 1_000_000_000


class _Limit(click.IntRange):
    """A number of jobs, or the word default."""

    def __init__(self) -> None:
        super().__init__(0, MOST_WAITING)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give the number, or DEFAULT."""
        return DEFAULT if value in ("default", DEFAULT) else super().convert(value, param, ctx)


@click.group("site")
def site() -> None:
    """Grid sites: their logins, and their share of the machines."""


@site.command("add")
@click.argument("name")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="File for the login.")
@data_option
@json_option
@pass_invocation
def add(invocation: Invocation, name: str, output: Path | None) -> None:
    """Make the site NAME, or find it; save its login in a file that only you can read.

    The site publishes its jobs with it, and reads from its own queue, site.NAME, what becomes of them. A file
    that holds another's login is left as it is, and nothing is done.

    \b
    Example:
      volcloud site add cern -o cern.json
    """
    if output is not None:
        _demand_own(output, f"site-{name}")
    with invocation.client() as client:
        credential = client.sites.add(name)
    broker = console_address(invocation.directory)
    address = msgspec.structs.replace(broker, user=credential.user, password=credential.password)
    path = output or credential_path(invocation.directory, credential.user)
    write_address(path, address)
    written = {"user": credential.user, "file": str(path.absolute())}
    invocation.show(written, lambda one: f"{one['user']}: {one['file']}")


def _demand_own(path: Path, user: str) -> None:
    """Raise BadInput where a file holds the login of somebody else; what holds none is none."""
    try:
        holder = read_address(path).user
    except (FileNotFoundError, ValueError):
        return
    if holder != user:
        text = f"--output = {str(path)!r}: it holds the login of {holder}, and one of {user} would replace it"
        raise BadInput(text, f"name another file; or take this one away, if {holder} has its login elsewhere")


@site.command("list")
@data_option
@json_option
@pass_invocation
def list_sites(invocation: Invocation) -> None:
    """List the sites, and who else has jobs: share, limit, and how many jobs wait, are at work, held and done.

    A limit with a * is the owner's own; others are the job adapter's waiting_of_owner.

    \b
    Example:
      volcloud site list
    """
    with invocation.client() as client:
        rows = client.sites.list()
    invocation.show(rows, render_owners)


@site.command("set")
@click.argument("name")
@click.option("--share", type=click.IntRange(1, 1000), help="Its part of the machines beside others; 1 at first.")
@click.option("--most-waiting", type=_Limit(), metavar="N|default", help="How many of its jobs may wait at once.")
@data_option
@json_option
@pass_invocation
def set_site(invocation: Invocation, name: str, share: int | None, most_waiting: int | None) -> None:
    """Set the share of the site NAME, or how many of its jobs may wait.

    While jobs of several sites wait, a site of share 2 gets twice the machines' time of one of share 1. What is not
    set stays. NAME may also be an owner as `volcloud site list` shows it: a person's, console-…, or a source's.

    \b
    Example:
      volcloud site set cern --share 3
      volcloud site set cern --most-waiting 50000
      volcloud site set cern --most-waiting default
    """
    if share is None and most_waiting is None:
        raise click.UsageError("say what is to be set: --share, --most-waiting, or both")
    is_default = most_waiting == DEFAULT
    limit = None if is_default else most_waiting
    with invocation.client() as client:
        row = client.sites.set(name, share=share, most_waiting=limit, forget_most_waiting=is_default)
    invocation.show(row, lambda one: render_owners([one]))


@site.command("delete")
@click.argument("name")
@data_option
@pass_invocation
def delete(invocation: Invocation, name: str) -> None:
    """Delete the site NAME with its queue; its login is refused from then on. Its jobs and its share stay.

    \b
    Example:
      volcloud site delete cern
    """
    with invocation.client() as client:
        client.sites.delete(name)
    credential_path(invocation.directory, f"site-{name}").unlink(missing_ok=True)
    invocation.say(f"site-{name} deleted")
