"""Where a running system answers scrapes, for whoever sets Prometheus up."""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker.node import LOOPBACK
from volcloud.centre.layout import Layout
from volcloud.centre.plan import Plan, job_adapter_names, read_names, source_adapter_names, storage_adapter_names
from volcloud.centre.settings import read_settings


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of metrics, ``host:port``."""

    job_adapters: list[str]
    storage_adapters: list[str]
    source_adapters: list[str] = []


def scrape_targets(data: Path) -> Targets:
    """List the adapters that the system of this data directory has now; those that it once had keep ports, no more.

    Raises BadInput when the settings cannot be read, OSError when the system was never up.
    """
    layout = Layout(data)
    settings = msgspec.to_builtins(read_settings(layout.settings))
    plan = msgspec.convert(settings | {"data": str(data)}, Plan)
    names = read_names(layout)
    return Targets(
        job_adapters=[f"{LOOPBACK}:{names.metrics[name]}" for name in job_adapter_names(plan)],
        storage_adapters=[f"{LOOPBACK}:{names.metrics[name]}" for name in storage_adapter_names(plan)],
        source_adapters=[f"{LOOPBACK}:{names.metrics[name]}" for name in source_adapter_names(plan)],
    )
