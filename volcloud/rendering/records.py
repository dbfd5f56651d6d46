"""One host, or one VM, whole, as people read it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from schemas.events import HostDetails, VmDetails
from schemas.ledger import HostRow, RegistryRow
from schemas.plain_text import plain
from schemas.vms import GuestFacts, HostFacts
from volcloud.rendering.events import render_events
from volcloud.rendering.vms import agent_of, render_vms, state_of
from volcloud.rendering.words import ago, clock, lines

_PRESENCE = {"present": "green", "late": "yellow"}
_NETWORKS = {
    "relay": "guests reach the broker and nothing else",
    "host": "guests are in the host's network",
}


def render_host_record(record: HostDetails) -> RenderableType:
    """Render all that is known of a host."""
    row, facts = record.host, record.host.facts
    more = row.vms - len(record.vms)
    beyond = [Text(f"… and {more} more: `volcloud vm list`", style="dim")] if more > 0 else []
    return Group(
        lines(
            [
                ("host", row.host),
                ("name", facts.hostname),
                ("presence", presence(row)),
                ("system", ", ".join(filter(None, (facts.system, facts.kernel, facts.platform)))),
                ("agent", facts.agent_version),
                *_driver(facts),
                *_machine(facts),
            ]
        ),
        _titled("VMs", render_vms(record.vms) if record.vms else Text("none", style="dim")),
        *beyond,
        _titled("last events", render_events(record.events)),
    )


def render_vm_record(record: VmDetails) -> RenderableType:
    """Render all that is known of a VM."""
    row, vm = record.vm, record.vm.status
    acted = f"{vm.acted.verb} by {vm.acted.by or 'its host agent'}, {clock(vm.acted.at_ms)}" if vm.acted else ""
    pairs: list[tuple[str, RenderableType]] = [
        ("VM", vm.name),
        ("id", vm.vm),
        ("state", state_of(vm)),
        ("reason", vm.reason),
        ("last verb", acted),
        ("host", _host(row, record.host)),
        ("hypervisor", " ".join(filter(None, (vm.hypervisor, vm.accelerator, f"pid {vm.pid}" if vm.pid else "")))),
        ("image", vm.image),
        ("boot", f"generation {vm.generation}{', started again when it aborts' if vm.autostart else ''}"),
        ("given", f"{vm.cpus} cpus, {vm.memory_mib} MiB, disk {vm.disk_mib} MiB"),
        ("uses", f"{vm.cpu_seconds:.0f} s of cpu, {vm.resident_bytes >> 20} MiB of its host" if vm.pid else ""),
        ("agent", _agent(row)),
        ("guest", _guest(vm.guest) if vm.guest else ""),
        ("jobs", "\n".join(row.jobs)),
    ]
    return Group(lines(pairs), _titled("last events", render_events(record.events)))


def presence(row: HostRow) -> Text:
    """Say whether a host is there, and when it was heard of last."""
    words = Text(plain(row.presence), style=_PRESENCE.get(row.presence, "red"))
    said = {"absent": "its agent has said goodbye", "late": "two beats missed", "lost": "three beats missed"}
    why = said.get(row.presence, "")
    return Text.assemble(words, f", heard of {ago(row.seen_ms)}", f": {why}" if why else "")


def _driver(facts: HostFacts) -> list[tuple[str, RenderableType]]:
    can = ("isolates guests" if facts.isolates else "isolates nothing", _NETWORKS.get(facts.network, facts.network))
    return [
        ("hypervisor", " ".join(filter(None, (facts.hypervisor, facts.accelerator)))),
        ("version", facts.hypervisor_version),
        ("why no KVM", facts.why_no_kvm),
        ("runs VMs as", facts.runs_as),
        ("driver", ", ".join(filter(None, (*can, facts.notes)))),
        ("ports", ", ".join(facts.ports)),
        ("images", "\n".join(facts.images)),
    ]


def _machine(facts: HostFacts) -> list[tuple[str, RenderableType]]:
    """Render sizes; what an older agent does not tell is left out."""
    free = f", {facts.memory_free_mib} MiB free" if facts.memory_free_mib else ""
    of_disk = f" of {facts.disk_mib} MiB" if facts.disk_mib else ""
    load = f", load {facts.load:.2f}" if facts.memory_free_mib else ""
    return [
        ("cpus", f"{facts.cpus}{load}"),
        ("memory", f"{facts.memory_mib} MiB{free}"),
        ("disk", f"{facts.free_disk_mib} MiB free{of_disk}"),
        ("its VMs take", _taken(facts)),
    ]


def _taken(facts: HostFacts) -> str:
    taken = facts.taken
    if taken is None:
        return ""
    memory = f"{taken.memory_mib} MiB ({taken.resident_mib} MiB in use)"
    return f"{taken.cpus} cpus, {memory}, disks of {taken.disk_mib} MiB; {taken.running} run"


def _host(row: RegistryRow, host: HostRow | None) -> Text:
    return Text.assemble(plain(f"{row.host} ("), presence(host), ")") if host else Text(plain(row.host))


def _agent(row: RegistryRow) -> Text:
    since = f" since {clock(row.agent_since_ms)}" if row.agent_ready and row.agent_since_ms else ""
    return Text.assemble(agent_of(row), since)


def _guest(guest: GuestFacts) -> str:
    link = "connected to the broker" if guest.is_connected else "without the broker"
    memory = f"{guest.memory_free_mib} of {guest.memory_mib} MiB free"
    return f"{link}, load {guest.load:.2f} on {guest.cpus} cpus, {memory}, {guest.holding} jobs at hand"


def _titled(title: str, content: RenderableType) -> RenderableType:
    return Group(Text(f"\n{title}", style="bold"), content)
