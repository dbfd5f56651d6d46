"""The driver ``fake``: VMs in memory."""

from __future__ import annotations

from pathlib import Path

from host_agent.hypervisors.drivers import Driver, DriverSettings
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor


class FakeSettings(DriverSettings, frozen=True, kw_only=True, tag="fake"):
    """VMs in memory, for tests: runs nothing."""


def _make(settings: FakeSettings, directory: Path) -> FakeHypervisor:
    return FakeHypervisor()


driver = Driver(FakeSettings, _make)
