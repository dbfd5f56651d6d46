"""``volcloud host …``: the machines that run VMs."""

from __future__ import annotations

import click

from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.hosts import render_hosts


@click.group("host")
def host() -> None:
    """See the hosts: volunteers' machines and grid nodes."""


@host.command("list")
@data_option
@json_option
@pass_invocation
def list_hosts(invocation: Invocation) -> None:
    """List the hosts that the centre knows.

    \b
    Example:
      volcloud host list
    """
    with invocation.client() as client:
        rows = client.hosts.list()
    invocation.show(rows, render_hosts)
