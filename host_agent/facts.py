"""What a host is, as its agent tells the centre."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable

from host_agent.config import HostConfig
from host_agent.hypervisors.contract import Hypervisor
from schemas.codec import clip
from schemas.vms import MOST_IMAGES, MOST_OF_A_HOSTNAME, HostFacts, InputFacts, VmStatus

AGENT_VERSION = "0.1.0"


def facts_of(
    config: HostConfig, hypervisor: Hypervisor, statuses: Iterable[VmStatus], inputs: InputFacts | None = None
) -> HostFacts:
    """Describe this host now; its accelerator is known once a VM runs."""
    return HostFacts(
        hostname=clip(platform.node(), MOST_OF_A_HOSTNAME),
        platform=f"{platform.system().lower()}-{platform.machine()}",
        cpus=os.cpu_count() or 1,
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        free_disk_mib=shutil.disk_usage(config.directory).free >> 20,
        hypervisor=hypervisor.name,
        accelerator=next((status.accelerator for status in statuses if status.accelerator), ""),
        agent_version=AGENT_VERSION,
        isolates=hypervisor.capabilities.isolates,
        images=config.images[:MOST_IMAGES],
        inputs=inputs,
    )
