"""Ways between a guest in QEMU and what is outside of it: to its host by virtio-serial, to the broker by our relay."""

from __future__ import annotations

from pathlib import Path

from host_agent.hypervisors.qemu.command import BROKER_ADDRESS, BROKER_PORT, ROAD_PORT, ROAD_SOCKET
from host_agent.hypervisors.qemu.files import QemuFiles
from schemas.endpoints import Endpoint


class QemuRoads:
    """See the contract."""

    guest_end = f"port:{ROAD_PORT}"

    def __init__(self, files: QemuFiles) -> None:
        self._files = files

    def socket(self, vm: str) -> Path:
        """Name the port's socket, which QEMU makes."""
        return self._files.path(vm) / ROAD_SOCKET


class QemuRelay:
    """See the contract. Which brokers there are the relay reads at each connection."""

    endpoints = (Endpoint(BROKER_ADDRESS, BROKER_PORT),)
