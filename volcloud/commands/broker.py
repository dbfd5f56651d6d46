"""``volcloud broker …``: the topology on the broker of a data directory."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import RenderableType

from broker.entities import Difference, administrator, check, declare
from broker.keys.store import reading
from broker.keys.vouching import complaint
from broker.management import Management
from broker.node import read_node_address
from broker.principals import Principal, parse_principal
from broker.topology import Profile, QueueSpec, centre_queues, queues_of
from volcloud.async_client import PATIENCE_S
from volcloud.centre.layout import Layout
from volcloud.errors import CommandFailed
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering import table

_profile_option = click.option(
    "--profile",
    type=click.Choice([profile.value for profile in Profile]),
    default=Profile.SINGLE.value,
    show_default=True,
    help="One machine, or a cluster.",
)


@click.group("broker")
def broker() -> None:
    """Make the broker's exchanges and queues, and compare them with what they should be."""


@broker.command("declare")
@_profile_option
@data_option
@pass_invocation
def declare_all(invocation: Invocation, profile: str) -> None:
    """Make every exchange and queue of the centre exist. What exists already stays as it is.

    \b
    Example:
      volcloud broker declare
    """
    node = read_node_address(Layout(invocation.directory).node)
    with administrator(node.administration, patience_s=PATIENCE_S) as connection:
        declare(connection, Profile(profile))
    invocation.say("the broker has every exchange and queue of the centre")


@broker.command("check")
@_profile_option
@data_option
@json_option
@pass_invocation
def check_all(invocation: Invocation, profile: str) -> None:
    """Compare the broker with what it should have; exit status 1 when something differs.

    Also named are virtual machines for which no host vouches any more: the key manager deletes their logins and queues
    after a while.

    \b
    Example:
      volcloud broker check
    """
    layout = Layout(invocation.directory)
    node = read_node_address(layout.node)
    management = Management(node.administration, timeout_s=PATIENCE_S)
    found = check(management, _expected(management, Profile(profile))) + _unvouched(management, layout.keys)
    invocation.show(found, _render)
    if found:
        raise click.exceptions.Exit(1)


def _render(found: Sequence[Difference]) -> RenderableType:
    shown = table("WHAT", "EXPECTED", "FOUND")
    for one in found:
        shown.add_row(one.entity, one.expected, one.found)
    return shown if found else "the broker is as it should be"


def _expected(management: Management, profile: Profile) -> list[QueueSpec]:
    specs = list(centre_queues(profile))
    for name in management.users.names():
        principal = _principal(name)
        if principal is not None:
            specs += queues_of(principal, profile)
    return specs


def _unvouched(management: Management, database: Path) -> list[Difference]:
    """Name the VMs on the broker for which nobody vouches, as the key manager remembers it. Raises CommandFailed."""
    if not database.exists():
        return []
    users = set(management.users.names())
    try:
        with reading(database) as records:
            complaints = [(record.vm, complaint(record)) for record in records if record.vm in users]
    except sqlite3.Error as error:
        raise CommandFailed(f"{database} cannot be read: {error}", "see the key manager's log in DIR/log") from error
    return [Difference(f"user {vm}", "a host that vouches for it", why) for vm, why in complaints if why]


def _principal(user: str) -> Principal | None:
    """Read a user's name; None for the administrator and other users that are nobody of ours."""
    try:
        return parse_principal(user)
    except ValueError:
        return None
