"""How the driver ``qemu`` is set."""

from __future__ import annotations

from typing import Literal

from host_agent.hypervisors.drivers import DriverSettings, Niceness


class QemuSettings(DriverSettings, frozen=True, kw_only=True, tag="qemu"):
    """VMs in QEMU."""

    #: Name or path of QEMU's program.
    binary: str = "qemu-system-x86_64"
    #: Left out, a boot is tried once under KVM, and the answer kept for as long as kernel and QEMU stay the same.
    accelerator: Literal["kvm", "tcg"] | None = None
    #: How far guests give way to what else runs on this host, 0 to 19; above 0 they also have the disk only when idle.
    niceness: Niceness = 10
