"""What a VM uses a second, from two answers of one life. Pure."""

from __future__ import annotations

from schemas.looks import VmCounters

#: Counters that only grow, of which a rate says something.
RATED = (
    "cpu_seconds", "block_read_bytes", "block_write_bytes", "block_read_requests", "block_write_requests",
    "net_rx_bytes", "net_tx_bytes", "net_rx_packets", "net_tx_packets",
)  # fmt: skip


def rates(before: VmCounters | None, now: VmCounters) -> dict[str, float] | None:
    """Give what was used a second between two answers, by counter; None where they are of two lives, or the same."""
    if before is None or not now.life or before.life != now.life or now.for_s <= before.for_s:
        return None
    span_s = now.for_s - before.for_s
    return {
        name: max(0.0, new - old) / span_s
        for name in RATED
        if (old := getattr(before, name)) is not None and (new := getattr(now, name)) is not None
    }
