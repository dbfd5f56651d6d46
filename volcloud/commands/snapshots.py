"""``volcloud vm snapshot …``: disk and memory of virtual machines, kept under a name."""

from __future__ import annotations

import click

from schemas.vms import VmDeleteSnapshot, VmRestoreSnapshot, VmTakeSnapshot
from volcloud.commands.vms import carry_out
from volcloud.invocation import Invocation, data_option, json_option, pass_invocation
from volcloud.rendering.vms import render_snapshots


@click.group("snapshot")
def snapshot() -> None:
    """Keep disk and memory of virtual machines under a name, and bring them back to it.

    VM is a VM's name, its id, or a pattern such as 'atlas-*'; NAME is a snapshot's: a to z, 0 to 9 and '-' inside.
    """


@snapshot.command("take")
@click.argument("vm")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def take(invocation: Invocation, vm: str, name: str) -> None:
    """Take the snapshot NAME of VM, which runs or is paused, and goes on after.

    It stands still while its memory is written to its host's disk. A name that is taken already must be deleted first.

    \b
    Example:
      volcloud vm snapshot take atlas-1 before-upgrade
    """
    carry_out(invocation, vm, VmTakeSnapshot, snapshot=name)


@snapshot.command("restore")
@click.argument("vm")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def restore(invocation: Invocation, vm: str, name: str) -> None:
    """Bring VM back to the snapshot NAME, disk and memory. What came after it is lost.

    VM may be in any state, off too; it is then what it was when NAME was taken, running or paused. NAME is kept.

    \b
    Example:
      volcloud vm snapshot restore atlas-1 before-upgrade
    """
    carry_out(invocation, vm, VmRestoreSnapshot, snapshot=name)


@snapshot.command("delete")
@click.argument("vm")
@click.argument("name")
@data_option
@json_option
@pass_invocation
def delete(invocation: Invocation, vm: str, name: str) -> None:
    """Delete the snapshot NAME of VM, which stays as it is. One that is not there is no error.

    \b
    Example:
      volcloud vm snapshot delete atlas-1 before-upgrade
    """
    carry_out(invocation, vm, VmDeleteSnapshot, snapshot=name)


@snapshot.command("list")
@click.argument("vm")
@data_option
@json_option
@pass_invocation
def list_snapshots(invocation: Invocation, vm: str) -> None:
    """List the snapshots of VM, the oldest first.

    \b
    Example:
      volcloud vm snapshot list atlas-1
    """
    with invocation.client() as client:
        rows = client.vms.snapshots(vm)
    invocation.show(rows, render_snapshots)
