"""Virtual machines as people read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from schemas.ledger import RegistryRow
from schemas.plain_text import plain
from schemas.vms import UNDECIDED, VmSnapshot, VmState, VmStatus
from volcloud.rendering.words import ago, lines, span, state, table

#: What an agent does whose VM is in one of these states, whatever was heard of it a moment ago.
_STILL = {
    **dict.fromkeys((VmState.PAUSED, VmState.PAUSING), "paused"),
    **dict.fromkeys((VmState.SAVED, VmState.SAVING), "saved"),
    **dict.fromkeys((VmState.POWEREDOFF, VmState.ABORTED), "off"),
}


def render_vms(rows: Sequence[RegistryRow]) -> RenderableType:
    """Render a listing of VMs."""
    shown = table("VM", "NAME", "STATE", "AGENT", "CPUS", "MEMORY", "PID", "JOBS", "HOST", "REASON")
    for row in rows:
        vm = row.status
        size = (str(vm.cpus), f"{vm.memory_mib} MiB", str(vm.pid or ""))
        shown.add_row(vm.vm, vm.name, state_of(vm), agent_of(row), *size, str(len(row.jobs)), _host(row), vm.reason)
    return shown


def state_of(vm: VmStatus) -> Text:
    """Say in what state a VM is, and what is being done to it: "running, stop for 12 s"."""
    if vm.act is None:
        return state(vm.state)
    percent = f" {vm.act.percent} %" if vm.act.percent is not None else ""
    return Text.assemble(state(vm.state), (plain(f", {vm.act.verb}{percent} for {span(vm.act.for_s)}"), "dim"))


def agent_of(row: RegistryRow) -> Text:
    """Say whether a guest agent serves. One whose VM is set aside may speak, and is given nothing to do; of one whose
    VM is paused or off nothing is to be heard."""
    if row.status.state in _STILL:
        return Text(_STILL[row.status.state], style="dim")
    if row.agent_ready:
        return Text("ready", style="green")
    return Text("not used" if row.status.state in UNDECIDED else "silent", style="dim")


def _host(row: RegistryRow) -> Text:
    """Name a VM's host, and say when it is not there."""
    away = "" if row.host_presence in ("", "present") else f" ({row.host_presence})"
    return Text.assemble(plain(row.host), (plain(away), "red"))


def render_vm(vm: VmStatus) -> RenderableType:
    """Render a VM as its host has told of it."""
    return lines(
        [
            ("VM", vm.name),
            ("id", vm.vm),
            ("state", state_of(vm)),
            ("cpus", str(vm.cpus)),
            ("memory", f"{vm.memory_mib} MiB"),
            ("disk", f"{vm.disk_mib} MiB"),
            ("hypervisor", f"{vm.hypervisor} {vm.accelerator}".strip()),
            ("reason", vm.reason),
        ]
    )


def render_snapshots(rows: Sequence[VmSnapshot]) -> RenderableType:
    """Render a listing of a VM's snapshots."""
    shown = table("SNAPSHOT", "TAKEN", "STATE", "MEMORY")
    for row in rows:
        shown.add_row(row.name, ago(row.taken_ms), state(row.state), f"{row.size_bytes >> 20} MiB")
    return shown


def labels_of(rows: Sequence[RegistryRow]) -> dict[str, str]:
    """Give by id what a person knows each VM by: its name, with its host where two have the same, and with its id where
    both are on one host."""
    names = Counter(row.status.name for row in rows)
    places = Counter((row.status.name, row.host) for row in rows)
    return {row.status.vm: _label(row, names, places) for row in rows}


def _label(row: RegistryRow, names: Counter[str], places: Counter[tuple[str, str]]) -> str:
    name = row.status.name
    if names[name] == 1:
        return name
    return f"{name} on {row.host}" if places[name, row.host] == 1 else f"{name} ({row.status.vm}) on {row.host}"
