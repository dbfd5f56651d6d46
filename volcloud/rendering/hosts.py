"""Hosts as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from schemas.ledger import HostRow
from volcloud.rendering.words import ago, table


def render_hosts(rows: Sequence[HostRow]) -> RenderableType:
    """Render a listing of hosts."""
    shown = table("HOST", "NAME", "PRESENT", "VMS", "CPUS", "MEMORY", "FREE DISK", "HYPERVISOR", "SEEN")
    for row in rows:
        facts = row.facts
        driver = f"{facts.hypervisor} {facts.accelerator}".strip() + ("" if facts.isolates else " (no isolation)")
        present = Text(row.presence, style="green" if row.presence == "present" else "red")
        size = (str(facts.cpus), f"{facts.memory_mib} MiB", f"{facts.free_disk_mib} MiB")
        shown.add_row(row.host, facts.hostname, present, str(row.vms), *size, driver, ago(row.seen_ms))
    return shown
