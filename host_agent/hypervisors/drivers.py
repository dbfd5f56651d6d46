"""Drivers by kind, ours and those that others install, each with settings of its own: see ``broker.daemon.plugins``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import msgspec

from broker.daemon.plugins import Plugin, Plugins, PluginSettings
from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import Hypervisor

GROUP = "volunteer_cloud.hypervisors"

#: How far guests give way to what else runs on a host.
Niceness = Annotated[int, msgspec.Meta(ge=0, le=19)]

_DRIVERS = Plugins(GROUP, "driver", HypervisorError)

#: Base of every driver's settings, and what its entry point leads to: how it is made of them and of a directory, in
#: which it keeps what it knows of its VMs, and which need not be there. Nothing happens before ``open``.
DriverSettings = PluginSettings
Driver = Plugin


def installed() -> dict[str, EntryPoint]:
    """Give the drivers that there are, by kind; none is imported."""
    return _DRIVERS.installed()


def make_driver(table: Mapping[str, Any], directory: Path, where: str) -> Hypervisor:
    """Make the driver that a table of settings names, set as it says; ``where`` is the table's place, for errors.

    Raises ConfigError that names field, value and what is allowed, and HypervisorError if it cannot be imported.
    """
    driver: Hypervisor = _DRIVERS.make(table, where, directory)
    return driver
