"""``volcloud host …``: the machines that run VMs."""

from __future__ import annotations

import click

from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.hosts import render_hosts
from volcloud.rendering.records import render_host_record


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


@host.command("show")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show one host: its machine, its driver, whether KVM is used, what its VMs take, and what happened there last.

    \b
    Example:
      volcloud host show host-a1
    """
    with invocation.client() as client:
        record = client.hosts.show(name)
    invocation.show(record, render_host_record)
