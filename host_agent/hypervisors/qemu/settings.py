"""How the driver ``qemu`` is set."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from host_agent.hypervisors.drivers import DriverSettings, Niceness
from host_agent.hypervisors.qemu.accounts import FIRST_UID, UIDS


class QemuSettings(DriverSettings, frozen=True, kw_only=True, tag="qemu"):
    """VMs in QEMU."""

    #: Name or path of QEMU's program.
    binary: str = "qemu-system-x86_64"
    #: Left out, a boot is tried once under KVM, and the answer kept for as long as kernel and QEMU stay the same.
    accelerator: Literal["kvm", "tcg"] | None = None
    #: How far guests give way to what else runs on this host, 0 to 19; above 0 they also have the disk only when idle.
    niceness: Niceness = 10
    #: Where the agent is root, each VM runs as an account of its own: this is the group that all of them are in, and
    #: behind it are their ids. No user need be made for them, and none that the machine has is taken.
    first_uid: Annotated[int, Meta(ge=1000, le=2_000_000_000)] = FIRST_UID
    #: How many ids there are for VMs; 0 = none: QEMU runs as root.
    uids: Annotated[int, Meta(ge=0, le=65536)] = UIDS
