"""A broker as its administrator manages it, by what there is to be managed."""

from __future__ import annotations

from contextlib import AbstractContextManager

import msgspec

from broker.address import AdminAddress
from broker.management.api import TIMEOUT_S, Api
from broker.management.connections import Connections
from broker.management.permissions import PermissionsApi
from broker.management.topology import Topology
from broker.management.users import Users


class _Node(msgspec.Struct, frozen=True):
    disk_free_alarm: bool = False
    mem_alarm: bool = False
    disk_free: int = 0
    disk_free_limit: int = 0


class Management:
    """One broker, as one administrator, on one virtual host."""

    def __init__(self, address: AdminAddress, *, timeout_s: float = TIMEOUT_S) -> None:
        self._administrator = address.user
        self._api = Api(address, timeout_s=timeout_s)
        self.users = Users(self._api)
        self.permissions = PermissionsApi(self._api)
        self.topology = Topology(self._api)
        self.connections = Connections(self._api)

    def together(self) -> AbstractContextManager[None]:
        """Have the calls that this thread makes in the block take a fraction of their time: they share a connection."""
        return self._api.together()

    def ensure_vhost(self) -> None:
        """Make the virtual host exist, and the administrator free to do anything in it. Idempotent."""
        self._api.put(f"vhosts/{self._api.vhost}", {})
        self.permissions.put(self._administrator, configure=".*", write=".*", read=".*")

    def alarms(self) -> list[str]:
        """Name the alarms for which the broker takes no messages: it is short of disk, or of memory.

        A node that has just started has no figures yet; the API gives an empty array in their place.
        """
        asked = "nodes?columns=disk_free_alarm,mem_alarm,disk_free,disk_free_limit"
        (found,) = self._api.get(asked, list[_Node | list[object]])
        node = found if isinstance(found, _Node) else _Node()
        disk = f"only {node.disk_free >> 20} MiB of disk are free, {node.disk_free_limit >> 20} must be"
        return [*([disk] if node.disk_free_alarm else []), *(["its memory is full"] if node.mem_alarm else [])]
