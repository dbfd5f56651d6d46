"""What VMs use of their hosts, as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import RenderableType

from volcloud.client.looks import VmUsage
from volcloud.rendering.words import span, state, table

#: Units of bytes, each 1024 of the one before.
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_NOT_TOLD = "-"


class UsageRow(NamedTuple):
    """One VM in the table."""

    label: str
    #: None: it could not be asked.
    usage: VmUsage | None
    #: What it uses a second; None in a table of what it has used so far, or until that is known.
    rates: dict[str, float] | None = None
    reason: str = ""


def render_usage(rows: Sequence[UsageRow], *, is_watched: bool = False) -> RenderableType:
    """Render a table of what VMs have used, or, where it is watched, use a second."""
    heads = ("CPU", "MEMORY", "DISK", "READ", "WRITTEN", "RECEIVED", "SENT", "FOR")
    shown = table("NAME", "STATE", *heads, "REASON")
    for row in rows:
        if row.usage is None:
            shown.add_row(row.label, state("unknown"), *(_NOT_TOLD for _ in heads), row.reason)
        else:
            shown.add_row(row.label, state(row.usage.state), *_cells(row, row.usage, is_watched), row.usage.reason)
    return shown


def _cells(row: UsageRow, usage: VmUsage, is_watched: bool) -> list[str]:
    known = usage.counters
    used = row.rates or {} if is_watched else {name: getattr(known, name) for name in known.__struct_fields__}
    per = "/s" if is_watched else ""
    return [
        _cpu(used.get("cpu_seconds"), is_watched),
        size(known.resident_bytes),
        size(known.disk_bytes),
        _moved(used.get("block_read_bytes"), used.get("block_read_requests"), per),
        _moved(used.get("block_write_bytes"), used.get("block_write_requests"), per),
        _moved(used.get("net_rx_bytes"), used.get("net_rx_packets"), per),
        _moved(used.get("net_tx_bytes"), used.get("net_tx_packets"), per),
        span(known.for_s) if known.life else _NOT_TOLD,
    ]


def _cpu(seconds: float | None, is_rate: bool) -> str:
    if seconds is None:
        return _NOT_TOLD
    return f"{100 * seconds:.0f} %" if is_rate else span(seconds)


def _moved(amount: float | None, times: float | None, per: str) -> str:
    if amount is None:
        return _NOT_TOLD
    return f"{size(amount)}{per}" + (f" in {times:.0f}{per}" if times is not None else "")


def size(amount: float | None) -> str:
    """Say an amount of bytes, in the largest unit of which it is one."""
    if amount is None:
        return _NOT_TOLD
    number = 0
    while amount >= 1024 and number < len(_UNITS) - 1:
        amount, number = amount / 1024, number + 1
    return f"{amount:.0f} {_UNITS[number]}" if number == 0 or amount >= 100 else f"{amount:.1f} {_UNITS[number]}"
