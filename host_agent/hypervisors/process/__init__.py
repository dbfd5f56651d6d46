"""The driver ``process``: guest agents as processes of the host."""

from __future__ import annotations

from pathlib import Path

from host_agent.hypervisors.drivers import Driver
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.hypervisors.process.settings import ProcessSettings


def _make(settings: ProcessSettings, directory: Path) -> ProcessHypervisor:
    return ProcessHypervisor(directory, settings.command, niceness=settings.niceness)


driver = Driver(ProcessSettings, _make)
