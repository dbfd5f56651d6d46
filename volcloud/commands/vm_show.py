"""``volcloud vm show``: one VM, with all that the centre knows of it."""

from __future__ import annotations

import click

from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.records import render_vm_record


@click.command("show")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show one VM: its state and why, its guest, its jobs, its host, and what happened to it last.

    \b
    Example:
      volcloud vm show atlas-1
    """
    with invocation.client() as client:
        record = client.vms.show(name)
    invocation.show(record, render_vm_record)
