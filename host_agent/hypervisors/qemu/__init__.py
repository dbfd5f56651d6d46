"""The driver ``qemu``: VMs in QEMU, each a process of its own."""

from __future__ import annotations

from pathlib import Path

from host_agent.hypervisors.drivers import Driver
from host_agent.hypervisors.qemu.accounts import VmAccounts
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from host_agent.hypervisors.qemu.settings import QemuSettings


def _make(settings: QemuSettings, directory: Path) -> QemuHypervisor:
    accounts = VmAccounts(settings.first_uid, settings.uids)
    return QemuHypervisor(
        directory, settings.binary, settings.accelerator, niceness=settings.niceness, accounts=accounts
    )


driver = Driver(QemuSettings, _make)
